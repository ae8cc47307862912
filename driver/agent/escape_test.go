// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/sandbox"
)

// An escape is something that code in a sandbox must not get through with.
type escape struct {
	name, argument string // of testdata/attack.c
	// refused is the kernel's reason.
	refused string
	// layers stop it, each by itself: it gets through once all of them are out.
	// None: a kernel that is set up as usual refuses it without us.
	layers []sandbox.Layer
}

// TestEscapes tries everything in a real sandbox, by execute. Then it tries each
// again in one without the layers that are there to stop it, where it has to get
// through, so that a test that cannot fail is found out; and where it takes more
// than one layer, with each of them alone, which has to do.
func TestEscapes(t *testing.T) {
	const (
		seccomp     = sandbox.LayerSeccomp
		landlock    = sandbox.LayerLandlock
		proc        = sandbox.LayerProc
		readOnly    = sandbox.LayerReadOnlyRoot
		privileges  = sandbox.LayerPrivileges
		descriptors = sandbox.LayerDescriptors
	)
	escapes := []escape{
		{"user namespace", "", "EPERM", []sandbox.Layer{seccomp}},
		{"user namespace by unshare", "", "EPERM", []sandbox.Layer{seccomp}},
		{"user namespace by clone3", "", "ENOSYS", []sandbox.Layer{seccomp}},
		{"mount in a namespace", "", "EPERM", []sandbox.Layer{seccomp, landlock}},
		{"io_uring", "", "EPERM", []sandbox.Layer{seccomp}},
		{"userfaultfd", "", "EPERM", []sandbox.Layer{seccomp}},
		{"keyring", "", "EPERM", []sandbox.Layer{seccomp}},
		{"ptrace", "", "EPERM", []sandbox.Layer{seccomp}},
		{"memory of another process", "", "EPERM", []sandbox.Layer{seccomp}},
		{"netfilter socket", "", "EAFNOSUPPORT", []sandbox.Layer{seccomp}},
		{"i386 call", "", "ENOSYS", []sandbox.Layer{seccomp}},
		{"fixed addresses", "", "EPERM", []sandbox.Layer{seccomp}},
		{"core limit", "", "EPERM", []sandbox.Layer{seccomp}},
		{"file handle", "", "EPERM", []sandbox.Layer{seccomp}},
		{"fanotify", "", "EPERM", []sandbox.Layer{seccomp}},
		{"filter by seccomp", "", "EPERM", []sandbox.Layer{seccomp}},
		{"filter by prctl", "", "EPERM", []sandbox.Layer{seccomp}},
		{"filter of a socket", "", "EPERM", []sandbox.Layer{seccomp}},
		{"kcmp", "", "EPERM", []sandbox.Layer{seccomp}},
		{"vmsplice", "", "EPERM", []sandbox.Layer{seccomp}},
		{"bpf", "", "EPERM", nil},
		{"perf", "", "EPERM", []sandbox.Layer{seccomp}},
		{"packet socket", "", "EAFNOSUPPORT", nil},
		{"raw socket", "", "EAFNOSUPPORT", nil},
		{"device node", "", "EPERM", nil},

		{"mount", "", "EPERM", []sandbox.Layer{seccomp, landlock, privileges}},
		{"chroot", "", "EPERM", []sandbox.Layer{seccomp, privileges}},
		{"host name", "", "EPERM", []sandbox.Layer{seccomp, privileges}},
		{"privileges", "", "EPERM", []sandbox.Layer{privileges}},
		{"root inside", "", "EPERM", []sandbox.Layer{privileges}},
		{"privileged exec", "", "EPERM", []sandbox.Layer{privileges}},
		{"environment of init", "", "EACCES", []sandbox.Layer{landlock, privileges}},
		{"memory of init", "", "EACCES", []sandbox.Layer{landlock, privileges}},
		{"binary of init", "", "EACCES", []sandbox.Layer{landlock, privileges}},
		{"descriptors of init", "", "EACCES", []sandbox.Layer{privileges}},
		{"root of init", "", "EACCES", []sandbox.Layer{landlock, privileges}},
		{"foreign descriptors", "", "EBADF", []sandbox.Layer{descriptors}},

		{"write to a process's settings", "", "EACCES", []sandbox.Layer{landlock}},
		{"write to the kernel's settings", "/proc/sys/user/max_user_namespaces", "EACCES", []sandbox.Layer{landlock, proc, privileges}},
		{"write to the root", "", "EROFS", []sandbox.Layer{landlock, readOnly, privileges}},
		{"read", "/proc/cmdline", "ENODATA", []sandbox.Layer{proc}},
		{"read", "/proc/kallsyms", "ENODATA", []sandbox.Layer{proc}},
		{"read", "/proc/interrupts", "ENODATA", []sandbox.Layer{proc}},
		{"read", "/proc/diskstats", "ENODATA", []sandbox.Layer{proc}},
		{"read", "/proc/kmsg", "EACCES", nil},
		{"read", "/dev/mem", "ENOENT", nil},
		{"read", "/dev/kmsg", "ENOENT", nil},
		{"read", "/dev/loop0", "ENOENT", nil},
		{"read", "/sys/kernel/uevent_seqnum", "ENOENT", nil},
		{"read", "/etc/shadow", "ENOENT", nil},
	}
	binary := buildAttack(t)
	for i, e := range escapes {
		if len(e.layers) == 1 && (e.layers[0] == seccomp || e.argument == "/proc/kallsyms") && outside(t, binary, e) != "through" {
			t.Logf("this machine refuses %s %s by itself", e.name, e.argument)
			escapes[i].layers = nil
		}
	}
	all := newFixture(t)
	all.upload(t, binary)
	// Something of the host's that anybody could read who saw it.
	secret := filepath.Join(all.config.StateDir, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(all.config.StateDir, 0o755); err != nil {
		t.Fatal(err)
	}
	host := escape{name: "read", argument: secret, refused: "ENOENT"}
	if got := outside(t, binary, host); got != "through" {
		t.Fatalf("the host's file cannot be read outside either: %s", got)
	}
	escapes = append(escapes, host)
	for _, when := range []string{"new", "woken"} {
		if when == "woken" { // with a workspace that the restorer serves
			all.sleepAndWake(t)
		}
		for _, e := range escapes {
			if got := all.attack(t, e); got != e.refused {
				t.Errorf("%s session: %s %s: %s, want %s", when, e.name, e.argument, got, e.refused)
			}
		}
	}
	t.Run("mutations", func(t *testing.T) {
		for _, without := range mutations(escapes) {
			t.Run(fmt.Sprint(without), func(t *testing.T) {
				f := newFixtureWith(t, without, nil)
				f.upload(t, binary)
				for _, e := range escapes {
					if len(e.layers) == 0 {
						continue
					}
					got := f.attack(t, e)
					left := slices.ContainsFunc(e.layers, func(l sandbox.Layer) bool { return !slices.Contains(without, l) })
					if through := got == "through"; through == left {
						t.Errorf("%s %s: %s without %v; it is up to %v", e.name, e.argument, got, without, e.layers)
					}
				}
			})
		}
	})
}

// mutations are the sets of layers to leave out: for each escape all that stop
// it, and all of them but one.
func mutations(escapes []escape) (sets [][]sandbox.Layer) {
	add := func(set []sandbox.Layer) {
		if len(set) > 0 && !slices.ContainsFunc(sets, func(s []sandbox.Layer) bool { return slices.Equal(s, set) }) {
			sets = append(sets, set)
		}
	}
	for _, e := range escapes {
		add(e.layers)
		if len(e.layers) < 2 {
			continue
		}
		for i := range e.layers {
			add(slices.Delete(slices.Clone(e.layers), i, i+1))
		}
	}
	return sets
}

// buildAttack compiles testdata/attack.c.
func buildAttack(t *testing.T) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "attack")
	cmd := exec.Command("gcc", "-static", "-O1", "-Wall", "-Werror", "-o", name, "testdata/attack.c")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compile the attacks: %v\n%s", err, out)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// outside tries e on the host, as nobody.
func outside(t *testing.T, binary []byte, e escape) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "attack")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "attack")
	err = errors.Join(os.Chmod(dir, 0o755), os.WriteFile(name, binary, 0o755))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, e.name, e.argument)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.Output()
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(out))
}

// upload puts the attacks into the session, as any client could.
func (f *fixture) upload(t *testing.T, binary []byte) {
	t.Helper()
	body := map[string]any{"path": "attack", "content": base64.StdEncoding.EncodeToString(binary), "encoding": "base64"}
	if status := f.call(t, "POST", "/v1/files/write", body, nil); status != 200 {
		t.Fatalf("write the attacks: status %d", status)
	}
	if r := f.run(t, map[string]any{"command": "chmod +x attack"}); r.ExitCode != 0 {
		t.Fatalf("%+v", r)
	}
}

func (f *fixture) attack(t *testing.T, e escape) string {
	t.Helper()
	r := f.run(t, map[string]any{"command": fmt.Sprintf("./attack '%s' '%s'", strings.ReplaceAll(e.name, "'", `'\''`), e.argument)})
	if r.ExitCode != 0 || r.Stderr != "" {
		return fmt.Sprintf("exit code %d %s", r.ExitCode, r.Stderr)
	}
	return strings.TrimSpace(r.Stdout)
}

// TestAbstractSockets tries a socket of the host's in the abstract namespace, which
// belongs to a network namespace: out of reach in a sandbox's own, and, by
// Landlock, in one that it shares with others.
func TestAbstractSockets(t *testing.T) {
	const name = "buntime-test-abstract"
	ns := listenApart(t, name)
	l, err := net.Listen("unix", "@"+name) // the host's
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	binary := buildAttack(t)
	shared := func(task *driver.Task) { task.Netns = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()) }
	for _, c := range []struct {
		name    string
		without []sandbox.Layer
		change  func(*driver.Task)
		want    string
	}{
		{"own network", nil, nil, "ECONNREFUSED"},
		{"shared network", nil, shared, "EPERM"},
		{"shared network without Landlock", []sandbox.Layer{sandbox.LayerLandlock}, shared, "through"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixtureWith(t, c.without, c.change)
			f.upload(t, binary)
			if got := f.attack(t, escape{name: "abstract socket", argument: name}); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// listenApart makes a network namespace, as Nomad makes one for an allocation, in
// which somebody listens on the abstract name.
func listenApart(t *testing.T, name string) *os.File {
	t.Helper()
	var ns *os.File
	var l net.Listener
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns, err = os.Open("/proc/thread-self/ns/net")
		}
		if err == nil {
			l, err = net.Listen("unix", "@"+name)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		ns.Close()
	})
	return ns
}

// TestFromOutside looks at a sandbox's processes as the host sees them.
func TestFromOutside(t *testing.T) {
	f := newFixture(t)
	seen := map[string]bool{}
	for _, f := range []*fixture{f, f.beside(t)} {
		r := f.run(t, map[string]any{"code": "Bun.serve({port: 8080, fetch: () => new Response('x')})"})
		if !r.Background {
			t.Fatalf("%+v", r)
		}
		init := f.instance.(*instance).box.State().Pid
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", init))
		if err != nil || !strings.HasPrefix(exe, "/memfd:buntime-init") {
			t.Errorf("init runs %s, %v: want a file in memory", exe, err)
		}
		file, err := os.Open(fmt.Sprintf("/proc/%d/exe", init))
		if err != nil {
			t.Fatal(err)
		}
		seals, err := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0)
		file.Close()
		if want := unix.F_SEAL_WRITE | unix.F_SEAL_SEAL; err != nil || seals&want != want {
			t.Errorf("init's file has seals %#x, %v: want it closed to writing", seals, err)
		}
		pid := hostPid(t, init, r.Pid)
		for _, field := range []string{"Uid", "Gid"} {
			ids := field + statusField(t, pid, field+":")
			if seen[ids] {
				t.Errorf("two sandboxes run as %s", ids)
			}
			seen[ids] = true
		}
		for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
			host, err1 := os.Readlink("/proc/self/ns/" + ns)
			own, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
			if err1 != nil || err2 != nil || host == own {
				t.Errorf("%s namespace %s is the host's (%v, %v)", ns, own, err1, err2)
			}
		}
		if groups := strings.TrimSpace(statusField(t, pid, "Groups:")); groups != "" {
			t.Errorf("process has groups %s", groups)
		}
	}
}

// beside starts another session on the same node agent.
func (f *fixture) beside(t *testing.T) *fixture {
	t.Helper()
	task := *f.task
	task.ID, task.AllocID = "alloc/session/2", task.AllocID+"-beside"
	task.Session = &driver.Session{ID: "ses_beside", Epoch: 1, ExpiresAt: f.task.Session.ExpiresAt}
	task.API, task.Preview = freeAddress(t), freeAddress(t)
	other := &fixture{agent: f.agent, config: f.config, task: &task}
	var err error
	if other.instance, err = f.agent.Start(t.Context(), &task); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.instance.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return other
}

// hostPid finds the process that has the number inside in init's PID namespace.
func hostPid(t *testing.T, init, inside int) int {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", init))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		var pid int
		if _, err := fmt.Sscanf(p, "/proc/%d", &pid); err != nil {
			t.Fatal(err)
		}
		if own, err := os.Readlink(p + "/ns/pid"); err != nil || own != ns {
			continue
		}
		if strings.HasSuffix(strings.TrimSpace(statusField(t, pid, "NSpid:")), fmt.Sprintf("\t%d", inside)) {
			return pid
		}
	}
	t.Fatalf("no process %d in the sandbox of init %d", inside, init)
	return 0
}

func statusField(t *testing.T, pid int, field string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			return rest
		}
	}
	return ""
}

// TestMounts wants every mount to ignore setuid, and all that is not the
// session's own to be read-only.
func TestMounts(t *testing.T) {
	f := newFixture(t)
	r := f.run(t, map[string]any{"command": "cat /proc/self/mountinfo"})
	for line := range strings.Lines(r.Stdout) {
		fields := strings.Fields(line)
		target, options := fields[4], strings.Split(fields[5], ",")
		if !slices.Contains(options, "nosuid") {
			t.Errorf("%s honours setuid: %s", target, line)
		}
		ours := []string{"/workspace", "/tmp", "/home/bun", "/dev/shm", "/dev/mqueue", "/dev/pts", "/proc"}
		device := strings.HasPrefix(target, "/dev/") || strings.Contains(line, "/null /proc/")
		if slices.Contains(options, "rw") && !slices.Contains(ours, target) && !device {
			t.Errorf("%s can be written to: %s", target, line)
		}
	}
	if r := f.run(t, map[string]any{"command": "find / -xdev -perm /7000 ! -type d; find / -xdev ! -type f ! -type d ! -type l"}); r.Stdout != "" {
		t.Errorf("setuid, devices or pipes in the root: %s", r.Stdout)
	}
}

// TestTold wants what programs ask of the machine to be what the session may use.
func TestTold(t *testing.T) {
	f := newFixtureWith(t, nil, func(task *driver.Task) {
		task.Limits.Memory, task.Limits.CPUCores = 768<<20, 0.25
	})
	r := f.run(t, map[string]any{"code": `
		const os = require("os"), mb = (n) => Math.round(n / 2 ** 20);
		console.log(os.availableParallelism(), os.cpus().length, navigator.hardwareConcurrency);
		console.log(mb(os.totalmem()), mb(process.constrainedMemory()), os.freemem() <= os.totalmem());
		console.log(os.hostname());`})
	if want := "1 1 1\n768 768 true\nses-test\n"; r.Stdout != want {
		t.Errorf("Bun sees %q, want %q: %s", r.Stdout, want, r.Stderr)
	}
	r = f.run(t, map[string]any{"command": "free -m | awk '/Mem:/{print $2}'; cat /etc/machine-id /proc/sys/kernel/random/boot_id"})
	lines := strings.Fields(r.Stdout)
	if len(lines) != 3 || lines[0] != "768" {
		t.Fatalf("%+v", r)
	}
	for file, own := range map[string]string{"/etc/machine-id": lines[1], "/proc/sys/kernel/random/boot_id": lines[2]} {
		host, err := os.ReadFile(file)
		if err == nil && len(own) != len(strings.TrimSpace(string(host))) && len(host) > 1 || strings.TrimSpace(string(host)) == own {
			t.Errorf("%s is %q, the host's %q", file, own, host)
		}
	}
}

// TestHeapKnowsItsLimit lets a program make garbage faster than it keeps any, in
// little memory: what it holds at a time would fit several times, and the
// collector has to see to it before the kernel does.
func TestHeapKnowsItsLimit(t *testing.T) {
	f := newFixtureWith(t, nil, func(task *driver.Task) { task.Limits.Memory = 192 << 20 })
	r := f.run(t, map[string]any{"timeout": 120, "code": `
		const kept = [];
		for (let i = 0; i < 400; i++) {
			const part = [];
			for (let k = 0; k < 10_000; k++) part.push({ k, text: "x" + k });
			if (i % 3 == 0) kept.push(part);
			if (kept.length > 10) kept.shift();
		}
		console.log("done");`})
	if r.Stdout != "done\n" {
		t.Errorf("%+v", r)
	}
}
