// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package seccomp

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// decide runs the filter as the kernel would.
func decide(t testing.TB, vm *bpf.VM, architecture uint32, nr uint64, args ...uint64) uint32 {
	t.Helper()
	// struct seccomp_data as words: the machine here has those of the network.
	data := binary.BigEndian.AppendUint32(nil, uint32(nr))
	data = binary.BigEndian.AppendUint32(data, architecture)
	data = append(data, make([]byte, 8)...) // instruction pointer
	for i := range 6 {
		var v uint64
		if i < len(args) {
			v = args[i]
		}
		data = binary.BigEndian.AppendUint32(data, uint32(v))
		data = binary.BigEndian.AppendUint32(data, uint32(v>>32))
	}
	got, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got)
}

func newVM(t testing.TB) *bpf.VM {
	t.Helper()
	instructions, err := assemble()
	if err != nil {
		t.Fatal(err)
	}
	vm, err := bpf.NewVM(instructions)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

var (
	pass   = uint32(unix.SECCOMP_RET_ALLOW)
	eperm  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	eaf    = unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)
)

func TestFilter(t *testing.T) {
	vm := newVM(t)
	x86 := uint32(arch.X86_64.ID)
	for _, c := range []struct {
		name string
		nr   uint64
		args []uint64
		want uint32
	}{
		{"read", unix.SYS_READ, nil, pass},
		{"execve", unix.SYS_EXECVE, nil, pass},
		{"thread", unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND}, pass},
		{"fork", unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}, pass},
		{"user namespace", unix.SYS_CLONE, []uint64{unix.CLONE_NEWUSER | uint64(unix.SIGCHLD)}, eperm},
		{"network namespace", unix.SYS_CLONE, []uint64{unix.CLONE_NEWNET}, eperm},
		{"clone3", unix.SYS_CLONE3, nil, enosys},
		{"unshare", unix.SYS_UNSHARE, []uint64{unix.CLONE_NEWUSER}, eperm},
		{"io_uring", unix.SYS_IO_URING_SETUP, nil, eperm},
		{"io_setup", unix.SYS_IO_SETUP, nil, enosys},
		{"bpf", unix.SYS_BPF, nil, eperm},
		{"newer than the list", 9999, nil, enosys},
		{"x32", 0x40000000 | unix.SYS_READ, nil, enosys},

		{"unix socket", unix.SYS_SOCKET, []uint64{unix.AF_UNIX, unix.SOCK_STREAM, 0}, pass},
		{"tcp", unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP}, pass},
		{"ping6", unix.SYS_SOCKET, []uint64{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6}, pass},
		{"routes", unix.SYS_SOCKET, []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, pass},
		{"netfilter", unix.SYS_SOCKET, []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, eaf},
		{"sctp", unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP}, eaf},
		{"mptcp", unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP}, eaf},
		{"dccp", unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_DCCP, 0}, eaf},
		{"sctp by its type", unix.SYS_SOCKET, []uint64{unix.AF_INET6, unix.SOCK_SEQPACKET | unix.SOCK_CLOEXEC, 0}, eaf},
		{"packets by their type", unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_PACKET, 0}, eaf},
		{"quiet udp", unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_DGRAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC, 0}, pass},
		{"crypto", unix.SYS_SOCKET, []uint64{unix.AF_ALG, unix.SOCK_SEQPACKET, 0}, eaf},
		{"crypto, bits above", unix.SYS_SOCKET, []uint64{1<<32 | unix.AF_ALG, unix.SOCK_SEQPACKET, 0}, eaf},
		{"vsock", unix.SYS_SOCKET, []uint64{unix.AF_VSOCK, unix.SOCK_STREAM, 0}, eaf},
		{"pair", unix.SYS_SOCKETPAIR, []uint64{unix.AF_UNIX}, pass},
		{"pair of tipc", unix.SYS_SOCKETPAIR, []uint64{unix.AF_TIPC}, eaf},

		{"size of a terminal", unix.SYS_IOCTL, []uint64{0, unix.TIOCGWINSZ}, pass},
		{"number of a terminal", unix.SYS_IOCTL, []uint64{0, 0x80045430}, pass},
		{"the same as an int", unix.SYS_IOCTL, []uint64{0, 0xffffffff_80045430}, pass},
		{"typing", unix.SYS_IOCTL, []uint64{0, unix.TIOCSTI}, eperm},
		{"typing, bits above", unix.SYS_IOCTL, []uint64{0, 1<<32 | unix.TIOCSTI}, eperm},
		{"typing, all bits above", unix.SYS_IOCTL, []uint64{0, 0xffffffff_00000000 | unix.TIOCSTI}, eperm},
		{"selection", unix.SYS_IOCTL, []uint64{0, unix.TIOCLINUX}, eperm},

		{"read core limit", unix.SYS_PRLIMIT64, []uint64{0, unix.RLIMIT_CORE, 0, 4096}, pass},
		{"set core limit", unix.SYS_PRLIMIT64, []uint64{0, unix.RLIMIT_CORE, 4096, 0}, eperm},
		{"set core limit, bits above", unix.SYS_PRLIMIT64, []uint64{0, 1<<32 | unix.RLIMIT_CORE, 4096, 0}, eperm},
		{"set core limit, the old way", unix.SYS_SETRLIMIT, []uint64{unix.RLIMIT_CORE, 4096}, eperm},
		{"set stack limit", unix.SYS_PRLIMIT64, []uint64{0, unix.RLIMIT_STACK, 4096, 0}, pass},
		{"filter by seccomp", unix.SYS_SECCOMP, []uint64{unix.SECCOMP_SET_MODE_FILTER}, eperm},
		{"filter by prctl", unix.SYS_PRCTL, []uint64{unix.PR_SET_SECCOMP, 2}, eperm},
		{"filter by prctl, bits above", unix.SYS_PRCTL, []uint64{1<<32 | unix.PR_SET_SECCOMP, 2}, eperm},
		{"name", unix.SYS_PRCTL, []uint64{unix.PR_SET_NAME}, pass},
		{"name of memory", unix.SYS_PRCTL, []uint64{0x53564d41}, pass},
		{"a core of its own", unix.SYS_PRCTL, []uint64{unix.PR_SCHED_CORE}, eperm},
		{"filter of a socket", unix.SYS_SETSOCKOPT, []uint64{3, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER}, eperm},
		{"filter of a socket, bits above", unix.SYS_SETSOCKOPT, []uint64{3, 1<<32 | unix.SOL_SOCKET, unix.SO_ATTACH_FILTER}, eperm},
		{"filter of a group of sockets", unix.SYS_SETSOCKOPT, []uint64{3, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF}, eperm},
		{"address in use", unix.SYS_SETSOCKOPT, []uint64{3, unix.SOL_SOCKET, unix.SO_REUSEADDR}, pass},
		{"no delay", unix.SYS_SETSOCKOPT, []uint64{3, unix.IPPROTO_TCP, unix.TCP_NODELAY}, pass},
		{"the same number elsewhere", unix.SYS_SETSOCKOPT, []uint64{3, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY}, pass},
		{"another of the number", unix.SYS_SETSOCKOPT, []uint64{3, unix.IPPROTO_IPV6, unix.SO_ATTACH_FILTER}, pass},
		{"flush of all disks", unix.SYS_SYNC, nil, enosys},

		{"personality", unix.SYS_PERSONALITY, []uint64{0xffffffff}, pass},
		{"no randomization", unix.SYS_PERSONALITY, []uint64{0x0040000}, eperm},
	} {
		if got := decide(t, vm, x86, c.nr, c.args...); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
	// On i386, 11 is execve and 3 read.
	if got := decide(t, vm, uint32(arch.I386.ID), 3); got != enosys {
		t.Errorf("another architecture's call: %#x", got)
	}
}

// TestCalls asks the filter about every call there is, against the lists.
func TestCalls(t *testing.T) {
	vm := newVM(t)
	for nr, name := range arch.X86_64.SyscallNumbers {
		want := enosys
		switch {
		case slices.Contains(allowed, name):
			want = pass
		case slices.Contains(refused, name):
			want = eperm
		case slices.ContainsFunc(conditional, func(c conditions) bool { return c.name == name }):
			continue // TestFilter
		}
		if got := decide(t, vm, uint32(arch.X86_64.ID), uint64(nr)); got != want {
			t.Errorf("%s: %#x, want %#x", name, got, want)
		}
	}
	program, err := Program()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d calls allowed, %d instructions", len(allowed), len(program)/8)
}

// FuzzFilter looks for arguments that get a dangerous call through. The upper
// halves of ints are the kernel's to ignore, so they must not change a refusal.
func FuzzFilter(f *testing.F) {
	vm := newVM(f)
	x86 := uint32(arch.X86_64.ID)
	f.Add(uint64(unix.SYS_IOCTL), uint64(0), uint64(1<<32|unix.TIOCSTI), uint64(0))
	f.Add(uint64(unix.SYS_CLONE), uint64(unix.CLONE_NEWUSER), uint64(0), uint64(0))
	f.Add(uint64(unix.SYS_SOCKET), uint64(unix.AF_ALG), uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, nr, a, b, c uint64) {
		if decide(t, vm, x86, nr, a, b, c) != pass {
			return
		}
		switch uint32(nr) {
		case unix.SYS_IOCTL:
			if request := uint32(b); request == unix.TIOCSTI || request == unix.TIOCLINUX {
				t.Errorf("ioctl %#x passes", b)
			}
		case unix.SYS_CLONE:
			if a&newNamespaces != 0 {
				t.Errorf("clone %#x passes", a)
			}
		case unix.SYS_SOCKET:
			if !slices.Contains([]uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}, uint32(a)) {
				t.Errorf("socket of family %#x passes", a)
			}
		case unix.SYS_PRCTL:
			if o := uint32(a); o == unix.PR_SET_SECCOMP || o == unix.PR_SCHED_CORE {
				t.Errorf("prctl %#x passes", a)
			}
		case unix.SYS_SETSOCKOPT:
			if uint32(b) == unix.SOL_SOCKET && uint32(c) == unix.SO_ATTACH_FILTER {
				t.Errorf("setsockopt %#x %#x passes", b, c)
			}
		case unix.SYS_PRLIMIT64:
			if uint32(b) == unix.RLIMIT_CORE && c != 0 {
				t.Errorf("prlimit64 of %#x passes", b)
			}
		case unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_BPF, unix.SYS_PTRACE, unix.SYS_CLONE3:
			t.Errorf("call %d passes", nr)
		}
	})
}
