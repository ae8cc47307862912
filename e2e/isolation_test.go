// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestIsolationUser: code is nobody in particular.
func TestIsolationUser(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	equal(t, "user and groups", s.shell(`id -u; id -g; id -G`), "1000\n1000\n1000\n")
	own := s.shell(`cat /proc/self/status`)
	for _, want := range []string{"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "CapInh:\t0000000000000000", "NoNewPrivs:\t1"} {
		contains(t, "/proc/self/status", own, want)
	}
	for _, command := range []string{
		`mount -t tmpfs none /tmp`, `unshare -Ur true && mount -t proc proc /proc`, `chown 0 /tmp`, `chroot / true`,
		`hostname evil`, `mknod /tmp/null c 1 3`, `ip link set lo down`, `dmesg`, `kill -9 1`, `date -s 2000-01-01`, `echo 1 >/proc/sys/kernel/sysrq`,
	} {
		if r := s.command(command); r.ExitCode == 0 {
			t.Errorf("%s succeeded: %s", command, brief(r.Stdout))
		}
	}
	equal(t, "the session", s.print(`console.log("lives")`), "lives\n")
}

// TestIsolationFiles: what may be written, and nothing of the host's to read.
func TestIsolationFiles(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	for _, dir := range []string{"/workspace", "/tmp", "$HOME", "/dev/shm"} {
		r := s.command(`echo x >` + dir + `/probe && cat ` + dir + `/probe && rm ` + dir + `/probe`)
		equal(t, "write in "+dir+", stderr "+r.Stderr, r.Stdout, "x\n")
	}
	for _, path := range []string{"/probe", "/etc/probe", "/usr/probe", "/usr/local/bin/bun", "/bin/sh", "/etc/passwd", "/run/buntime/gate.ts", "/proc/sys/kernel/hostname", "/sys/probe", "/root/probe", "/var/probe", "/lib/probe"} {
		if r := s.command(`echo x >>` + path); r.ExitCode == 0 {
			t.Errorf("%s can be written", path)
		}
	}
	if r := s.command(`touch /probe`); !strings.Contains(r.Stderr, "Read-only file system") {
		t.Errorf("the root is not read-only: %s", r.Stderr)
	}

	dir, err := os.MkdirTemp("/tmp", "host-only-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(os.Chmod(dir, 0o777), os.WriteFile(filepath.Join(dir, "secret"), []byte("host secret"), 0o666)); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{"", "/proc/1/root", "/proc/1/cwd", "/proc/self/root/..", "/proc/self/cwd/../.."} {
		if r := s.command(`cat ` + root + dir + `/secret`); r.ExitCode == 0 {
			t.Errorf("%s%s can be read: %s", root, dir, r.Stdout)
		}
	}
	if r := s.command(`cat /etc/shadow /proc/kcore /proc/1/environ /dev/mem /dev/sda /dev/kmsg | head -c 1 | wc -c`); strings.TrimSpace(r.Stdout) != "0" {
		t.Errorf("one of the host's files can be read")
	}
	// 3 is the directory that ls reads.
	equal(t, "open descriptors above 3", s.shell(`ls -l /proc/self/fd | awk '$9 > 3 { print $9, $11 }'`), "")
	equal(t, "open descriptors of code", s.print(`
		import { readdirSync, readlinkSync } from "node:fs";
		const open = readdirSync("/proc/self/fd").map((fd) => { try { return readlinkSync("/proc/self/fd/" + fd) } catch { return "" } });
		console.log(open.filter((to) => to && !/^(pipe:|anon_inode:|socket:|\/dev\/null|\/workspace)/.test(to)).join());
	`), "\n")
	hostName, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if name := strings.TrimSpace(s.shell(`uname -n`)); name == hostName || name == "" {
		t.Errorf("hostname is %q", name)
	}
}

// TestIsolationProcesses: a session sees its own processes and no others.
func TestIsolationProcesses(t *testing.T) {
	t.Parallel()
	one, two := newSession(t), newSession(t)
	two.shell(`sleep 98765 >/dev/null 2>&1 &`)
	eventually(t, two.ctx, "the other's process", 5*time.Second, func() (bool, string) {
		list := two.processes()
		return len(list) == 1 && list[0].Command == "sleep 98765", brief(list)
	})
	all := one.shell(`for p in /proc/[0-9]*; do printf '%s ' "$(basename $p)"; tr '\0' ' ' <$p/cmdline; echo; done`)
	for _, word := range []string{"98765", "nomad", "consul", "buntime-frontend", "e2e.test", "systemd"} {
		if strings.Contains(all, word) {
			t.Errorf("the session sees a process with %q:\n%s", word, all)
		}
	}
	if n := strings.Count(all, "\n"); n > 12 {
		t.Errorf("the session sees %d processes:\n%s", n, all)
	}
	r := one.command(fmt.Sprintf(`kill -0 %d`, os.Getpid()))
	if r.ExitCode == 0 {
		t.Error("the session can signal a process of the host")
	}
}

// TestIsolationNetwork: from inside no way leads to anything that listens on
// the host, on whatever of its addresses, nor to another session.
func TestIsolationNetwork(t *testing.T) {
	t.Parallel()
	s, other := newSession(t), newSession(t)
	s.command(`true`) // so that its network is there before we look at the host's
	other.background(`Bun.serve({ port: 8080, hostname: "0.0.0.0", fetch: () => new Response("the other") })`)

	// A listener of our own on all addresses of the host: it is to be reached
	// from the host, and is not to be from the session.
	reached := make(chan string, 100)
	port := listenEverywhere(t, reached)
	inside := strings.Fields(s.print(`
		import { networkInterfaces } from "node:os";
		import { readFileSync } from "node:fs";
		const own = Object.values(networkInterfaces()).flat().map((a) => a!.address);
		const gateways = readFileSync("/proc/net/route", "latin1").split("\n").slice(1).map((l) => l.split("\t")[2]).filter((g) => g && g !== "00000000")
			.map((g) => g.match(/../g)!.reverse().map((b) => parseInt(b, 16)).join("."));
		const resolvers = [...readFileSync("/etc/resolv.conf", "latin1").matchAll(/^nameserver\s+(\S+)/gm)].map((m) => m[1]);
		console.log([...own.map((a) => "own=" + a), ...gateways.map((g) => "host=" + g), ...resolvers.map((r) => "host=" + r)].join(" "));
	`))
	targets := map[string]bool{}
	own := map[string]bool{}
	for _, item := range inside {
		if address, ok := strings.CutPrefix(item, "own="); ok {
			own[address] = true
		} else {
			targets[strings.TrimPrefix(item, "host=")] = true
		}
	}
	for _, address := range hostAddresses(t) {
		targets[address] = true
	}
	if len(targets) < 2 {
		t.Fatalf("too few addresses of the host: %v", targets)
	}
	ports := append([]int{port}, systemPorts(t, s, other)...)
	var addresses []string
	for address := range targets {
		if !own[address] {
			for _, port := range ports {
				addresses = append(addresses, net.JoinHostPort(address, strconv.Itoa(port)))
			}
		}
	}
	// Addresses of the other session: the whole neighbourhood of our own.
	for address := range own {
		a, err := netip.ParseAddr(address)
		if err != nil || !a.Is4() || a.IsLoopback() {
			continue
		}
		for a, i := a.Next(), 0; i < 8; a, i = a.Next(), i+1 {
			addresses = append(addresses, net.JoinHostPort(a.String(), "8080"), net.JoinHostPort(a.String(), strconv.Itoa(port)))
		}
		for a, i := a.Prev(), 0; i < 8; a, i = a.Prev(), i+1 {
			addresses = append(addresses, net.JoinHostPort(a.String(), "8080"), net.JoinHostPort(a.String(), strconv.Itoa(port)))
		}
	}
	// Loopback is the session's own, whatever listens there on the host.
	for _, port := range ports {
		addresses = append(addresses, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), net.JoinHostPort("::1", strconv.Itoa(port)))
	}
	// The metadata services of clouds.
	addresses = append(addresses, "169.254.169.254:80", "[fd00:ec2::254]:80")
	slices.Sort(addresses)
	addresses = slices.Compact(addresses)

	list, err := json.Marshal(addresses)
	if err != nil {
		t.Fatal(err)
	}
	out := s.well(s.execute(M{"timeout": 60, "code": `
		import { connect } from "node:net";
		const open: string[] = [];
		await Promise.all((` + string(list) + ` as string[]).map((target) => new Promise<void>((done) => {
			const [, host, port] = target.match(/^\[?(.*?)\]?:(\d+)$/)!;
			const socket = connect({ host, port: Number(port) });
			const end = () => { socket.destroy(); done(); };
			socket.setTimeout(2000, end);
			socket.on("connect", () => { open.push(target); socket.write("GET / HTTP/1.0\r\n\r\n"); setTimeout(end, 100); });
			socket.on("error", end);
		})));
		console.log(JSON.stringify(open.sort()));
	`}))
	equal(t, fmt.Sprintf("what could be connected to, of %d addresses", len(addresses)), out, "[]\n")
	select {
	case from := <-reached:
		t.Errorf("the host was reached from %s", from)
	default:
	}
}

// listenEverywhere listens on one port of all addresses until the test ends,
// makes sure that the host itself gets through, and reports who else does.
func listenEverywhere(t *testing.T, reached chan<- string) int {
	t.Helper()
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	accepted := make(chan struct{})
	go func() {
		first := true
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if first {
				first = false
				close(accepted)
			} else {
				reached <- conn.RemoteAddr().String()
			}
			conn.Close()
		}
	}()
	port := listener.Addr().(*net.TCPAddr).Port
	conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), 5*time.Second)
	if err != nil {
		t.Fatalf("reach our own listener: %v", err)
	}
	conn.Close()
	<-accepted
	return port
}

// hostAddresses are the host's but loopback, those of the sandboxes' host ends
// included.
func hostAddresses(t *testing.T) []string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for _, a := range all {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || prefix.Addr().IsLoopback() || prefix.Addr().IsLinkLocalUnicast() {
			continue
		}
		addresses = append(addresses, prefix.Addr().String())
	}
	return addresses
}

// systemPorts are those of Consul, Nomad, the front-end and the node agent for
// some sessions.
func systemPorts(t *testing.T, sessions ...*session) []int {
	t.Helper()
	var ports []int
	for _, base := range []string{system.base, system.consul, system.nomad} {
		u, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		port, err := strconv.Atoi(u.Port())
		if err != nil {
			t.Fatalf("port of %s: %v", base, err)
		}
		ports = append(ports, port)
	}
	for _, s := range sessions {
		var allocs []struct{ ID string }
		nomadGet(s, "/v1/job/"+s.host()+"/allocations", &allocs)
		n := len(ports)
		for _, alloc := range allocs {
			var full struct {
				AllocatedResources struct {
					Shared struct{ Ports []struct{ Value int } }
				}
			}
			nomadGet(s, "/v1/allocation/"+alloc.ID, &full)
			for _, p := range full.AllocatedResources.Shared.Ports {
				ports = append(ports, p.Value)
			}
		}
		if len(ports) == n {
			t.Fatalf("no ports of %s in Nomad", s.host())
		}
	}
	return ports
}

// nomadGet gets a part of Nomad's HTTP API.
func nomadGet(s *session, path string, v any) {
	s.t.Helper()
	reply := fetchURL(s.t, s.ctx, system.nomad+path)
	status(s.t, reply, 200)
	if err := json.Unmarshal(reply.Body, v); err != nil {
		s.t.Fatalf("decode %s: %v", path, err)
	}
}

// TestInternet: the way out is open, with names and TLS.
func TestInternet(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	equal(t, "in code", s.print(`console.log((await fetch("https://registry.npmjs.org/is-number/7.0.0").then((r) => r.json())).version)`), "7.0.0\n")
}
