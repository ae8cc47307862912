// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/sandbox"
	"github.com/buntime/buntime/driver/sandbox/cgroup"
	"github.com/buntime/buntime/driver/sandbox/network"
	"github.com/buntime/buntime/e2e/stack"
)

// firstLine is what each start runs until its line is there.
const firstLine = `console.log("first")`

// sandboxes compares the time from nothing until Bun's first line: our sandbox
// with every layer on, bubblewrap, runc, and a plain exec of the same Bun.
func (m *bench) sandboxes() {
	const rounds = 40
	rootfs := m.rootfs()
	node, stop := m.node(rootfs, "")
	contenders := []*contender{
		m.ownSandbox("sandbox, every layer", node),
		m.bubblewrap(rootfs),
		m.command("runc", m.runc("first", rootfs, "-e", firstLine), "first\n"),
		m.plain(rootfs),
	}
	defer func() { stop() }()
	m.race(3, 1, contenders...)
	for _, c := range contenders {
		c.took = nil
	}
	m.race(rounds, 1, contenders...)
	m.table("Start until Bun's first line", contenders[1], contenders...)
	served := m.served[len(m.served)-rounds:]
	slices.Sort(served)
	note(fmt.Sprintf("ours until init serves: p50 %s, p95 %s", ms(percentile(served, 50)), ms(percentile(served, 95))),
		"the same root file system and Bun; ours also has a veth, a file system and limits of its own, the others have none; runc no user namespace")
}

// withoutLayers are the layers of a sandbox that can be switched off, by the
// names that the last table has them under, each with how to do that.
var withoutLayers = func() map[string]func(*sandbox.Config) {
	layers := make(map[string]func(*sandbox.Config))
	for _, l := range []sandbox.Layer{
		sandbox.LayerSeccomp, sandbox.LayerLandlock, sandbox.LayerProc, sandbox.LayerPrivileges, sandbox.LayerDescriptors,
	} {
		layers[string(l)] = func(c *sandbox.Config) { c.Without = []sandbox.Layer{l} }
	}
	return layers
}()

// layers compares a start with every layer to one without each of them.
func (m *bench) layers() {
	const rounds = 40
	rootfs := m.rootfs()
	names := append([]string{""}, slices.Sorted(maps.Keys(withoutLayers))...)
	var contenders []*contender
	for _, name := range names {
		// One node at a time would compare moments; each has its own addresses.
		node, stop := m.node(rootfs, name)
		defer stop()
		title := "without " + name
		if name == "" {
			title = "every layer"
		}
		contenders = append(contenders, m.ownSandbox(title, node))
	}
	m.race(2, 1, contenders...)
	for _, c := range contenders {
		c.took = nil
	}
	m.race(rounds, 1, contenders...)
	m.table("Start until Bun's first line, the cost of each layer", contenders[0], contenders...)
}

// rootfs is the sandboxes' root file system, as the stack has it.
func (m *bench) rootfs() string {
	root, err := stack.Root()
	m.must(err)
	path, err := exec.CommandContext(m.ctx, filepath.Join(root, "driver/sandbox/rootfs/build"), m.bun).Output()
	m.must(err)
	return strings.TrimSpace(string(path))
}

// node opens what starts sandboxes, as the plugin does, but without a layer.
func (m *bench) node(rootfs, layer string) (*sandbox.Node, func()) {
	root, err := stack.Root()
	m.must(err)
	const ready = 4 // as the plugin keeps
	// Addresses beside those of test systems (e2e/stack), a few for each node.
	pool := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, 96 + byte(m.nodes), 0}), 24)
	m.nodes++
	config := sandbox.Config{
		StateDir: filepath.Join(m.dir, fmt.Sprintf("node-%d", m.nodes)), Rootfs: rootfs, Init: filepath.Join(root, "out/libexec/buntime-init"),
		Bun: "/usr/local/bin/bun", Network: network.Config{Pool: pool, Ready: ready}, ReadyWorkspaces: ready, ReadySize: 1 << 30,
	}
	if layer != "" {
		withoutLayers[layer](&config)
	}
	node, err := sandbox.Open(config, hclog.NewNullLogger())
	m.must(err)
	return node, func() { m.must(node.Close()) }
}

// ownSandbox starts a sandbox and Bun as its main process.
func (m *bench) ownSandbox(name string, node *sandbox.Node) *contender {
	var box *sandbox.Sandbox
	n, begin := 0, time.Time{}
	return &contender{
		name: name,
		before: func() error { // what the plugin makes in advance is there
			return m.pause(50 * time.Millisecond)
		},
		run: func() (err error) {
			n++
			begin = time.Now()
			box, err = node.Start(m.ctx, sandbox.Spec{
				Task: fmt.Sprintf("bench-%d", n), Hostname: "bench",
				Scope:  cgroup.OwnScope(fmt.Sprintf("bench-%d-%d", os.Getpid(), n)),
				Limits: cgroup.Limits{Memory: 1 << 30, CPUs: 1, Pids: 1024},
				Disk:   1 << 30, Files: 16384, Policy: network.Policy{Mode: network.ModeInternet},
			})
			if err != nil {
				return err
			}
			m.served = append(m.served, time.Since(begin))
			return m.mainLine(box)
		},
		after: func() error {
			ctx, cancel := context.WithTimeout(m.ctx, 20*time.Second)
			defer cancel()
			return box.Destroy(ctx)
		},
	}
}

// mainLine runs Bun as the main process of a sandbox until its first line.
func (m *bench) mainLine(box *sandbox.Sandbox) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	g, err := box.Group().NewExecution("main")
	if err != nil {
		w.Close()
		return err
	}
	joins, err := g.JoinFiles(box.Owner())
	if err != nil {
		w.Close()
		return err
	}
	conn, err := box.Dial(m.ctx)
	if err == nil {
		defer conn.Close()
		body, merr := json.Marshal(wire.Request{Op: wire.OpMain, ID: "main", Argv: []string{"/usr/local/bin/bun", "-e", firstLine}, Dir: "/workspace"})
		err = errors.Join(merr, conn.Write(wire.KindRequest, body, append([]*os.File{w, w}, joins...)...))
	}
	w.Close()
	for _, f := range joins {
		f.Close()
	}
	if err != nil {
		return err
	}
	return expectLine(r, "first\n")
}

func expectLine(r io.Reader, want string) error {
	line, err := bufio.NewReader(r).ReadString('\n')
	if line != want {
		return fmt.Errorf("the first line is %q: %w", line, err)
	}
	return nil
}

// command is a contender that is a command of the host's, until its first line.
func (m *bench) command(name string, args func() []string, want string) *contender {
	var cmd *exec.Cmd
	return &contender{
		name:   name,
		before: func() error { return m.pause(50 * time.Millisecond) },
		run: func() error {
			argv := args()
			cmd = exec.CommandContext(m.ctx, argv[0], argv[1:]...)
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				return err
			}
			if err := cmd.Start(); err != nil {
				return err
			}
			return expectLine(out, want)
		},
		after: func() error { return cmd.Wait() },
	}
}

func (m *bench) plain(rootfs string) *contender {
	return m.command("plain exec", func() []string {
		return []string{filepath.Join(rootfs, "usr/local/bin/bun"), "-e", firstLine}
	}, "first\n")
}

// bubblewrap has all namespaces and nothing else: no network, limits or filter.
func (m *bench) bubblewrap(rootfs string) *contender {
	return m.command("bubblewrap", func() []string {
		return []string{
			"bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", rootfs, "/",
			"--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/workspace", "--chdir", "/workspace",
			"--cap-drop", "ALL", "--", "/usr/local/bin/bun", "-e", firstLine,
		}
	}, "first\n")
}

// runc has a bundle as container engines make them, with their seccomp filter in
// short: names that are refused.
// It returns what makes the command line of one more container.
func (m *bench) runc(name, rootfs string, args ...string) func() []string {
	bundle := filepath.Join(m.dir, "bundle-"+name)
	m.must(os.MkdirAll(bundle, 0o755))
	text, err := json.Marshal(runcConfig(rootfs, m.dir, args))
	m.must(err)
	m.must(os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o644))
	return func() []string {
		id := fmt.Sprintf("bench-%d-%d", os.Getpid(), m.containers.Add(1))
		return []string{"runc", "--root", filepath.Join(m.dir, "runc"), "run", "--bundle", bundle, id}
	}
}

// runcToResult runs the module in a container until its line is there.
func (m *bench) runcToResult(name string) *contender {
	c := m.command(name, m.runc("module", m.rootfs(), "run", "/mnt/"+filepath.Base(m.file)), output)
	c.before = m.quiet
	return c
}

// runcConfig is an OCI runtime specification. Like the engines' default it has
// no user namespace.
func runcConfig(rootfs, dir string, args []string) M {
	mount := func(target, kind string, options ...string) M {
		return M{"destination": target, "type": kind, "source": kind, "options": append([]string{"nosuid", "noexec", "nodev"}, options...)}
	}
	none := M{"bounding": []string{}, "effective": []string{}, "permitted": []string{}, "ambient": []string{}}
	namespaces := []M{}
	for _, kind := range []string{"pid", "network", "ipc", "uts", "mount", "cgroup"} {
		namespaces = append(namespaces, M{"type": kind})
	}
	return M{
		"ociVersion": "1.0.2",
		"process": M{
			"user": M{"uid": 1000, "gid": 1000}, "args": append([]string{"/usr/local/bin/bun"}, args...), "cwd": "/workspace",
			"env": []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp"}, "capabilities": none, "noNewPrivileges": true,
			"rlimits": []M{{"type": "RLIMIT_NOFILE", "hard": 16384, "soft": 16384}},
		},
		"root": M{"path": rootfs, "readonly": true}, "hostname": "bench",
		"mounts": []M{
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "noexec", "mode=755", "size=64k"}},
			mount("/proc", "proc"), mount("/tmp", "tmpfs", "mode=1777"),
			{"destination": "/mnt", "type": "bind", "source": dir, "options": []string{"bind", "ro", "nosuid", "nodev"}},
			mount("/workspace", "tmpfs", "mode=1777"), mount("/dev/shm", "tmpfs", "mode=1777"), mount("/dev/mqueue", "mqueue"),
			{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666"}},
		},
		"linux": M{
			"namespaces":    namespaces,
			"maskedPaths":   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi"},
			"readonlyPaths": []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			"seccomp": M{"defaultAction": "SCMP_ACT_ALLOW", "architectures": []string{"SCMP_ARCH_X86_64"}, "syscalls": []M{{
				"action": "SCMP_ACT_ERRNO",
				"names": []string{
					"add_key", "bpf", "io_uring_setup", "io_uring_enter", "io_uring_register", "kexec_load", "keyctl", "mount", "move_mount",
					"open_by_handle_at", "perf_event_open", "pivot_root", "ptrace", "reboot", "request_key", "setns", "swapon", "umount2",
					"unshare", "userfaultfd", "init_module", "finit_module", "delete_module", "acct", "quotactl", "settimeofday",
				},
			}}},
		},
	}
}
