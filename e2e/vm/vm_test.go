// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	// deadline is for all of it, on a busy machine without KVM.
	deadline = 15 * time.Minute
	// bootPatience is what a boot may take without KVM; 5 s is usual.
	bootPatience = 3 * time.Minute
)

// runs are the tests that are worth repeating on cgroup v2 and on another
// kernel. A skipped test counts as a failed one: name it here instead, with
// the reason.
var runs = []Run{
	// TestCpuset is about v1, which the machine has nothing of.
	{Package: "driver/sandbox/cgroup", Args: []string{"-test.skip=^TestCpuset$"}},
	{Package: "driver/sandbox/workspace"},
	// What the kernel is trusted with; the resolver and the like are ours.
	{Package: "driver/sandbox/network", Args: []string{
		"-test.run=^Test(ReachesOutsideMasqueraded|AttacksAreRefused|NothingOpensConnectionsIntoSandbox|HostIsNoRouterForNeighbours|" +
			"SpoofedSourceIsDropped|HeaderOptionsAreDropped|NoIPv6|ConnectionRate|OpenConnectionsMax|ModeNone|OpenAfterRestart|" +
			"Create|Sweep|Join|DialContext|Listening|DestroyForgetsConnections|FirstPacketArrives|Resolver|NothingIsLeft)$",
	}},
	// What the kernel does for a session: limits, kills, rest, accounts, the boundary. Not
	// the mutations of the attacks, and not what goes by the clock and asks little of it: an
	// emulated processor is ten times as slow. Landlock keeps abstract sockets apart from
	// 6.12 on only.
	{Package: "driver/agent", Args: []string{
		"-test.run=^Test(Execute|Restart|Escapes|AbstractSockets|FromOutside|Mounts|Told|HeapKnowsItsLimit|Favour.*|RootImage|" +
			"Idle.*|LifeWhenFreezingFails|RunningExecutionIsNotIdle|MemoryLimit|PidsLimit|TimeoutEndsTheTree|Usage|OrphanInParts|" +
			"RemoveAll|OutOfMemoryFromJournal)$",
		"-test.skip=^TestEscapes$/^mutations$|^TestAbstractSockets$/^shared_network$",
	}},
	// What is about the kernel, over real sandboxes.
	{Package: "driver", Args: []string{
		"-test.run=^Test(FingerprintHealthy|RunToTheEnd|StopAndDestroy|Stats|Conformance|ExecTask|RecoverLive|RecoverDiedMeanwhile)$/^sandboxes$",
	}},
	// The whole, with Nomad and Consul. Most of its tests are too much for
	// a processor that is emulated.
	{Package: "e2e", Args: []string{"-test.run=^Test(IsolationUser|OrdinaryJob)$", "-test.skip=/^agent_killed$"}},
}

// TestCgroupV2 runs the driver's tests on a machine with cgroup v2 only. Each
// test in there is a subtest here.
func TestCgroupV2(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	begin := time.Now()
	m := prepare(t)
	t.Logf("prepared in %s", time.Since(begin).Round(time.Millisecond))
	results := newResults(t)
	ctx, cancel := context.WithTimeoutCause(t.Context(), deadline, fmt.Errorf("the tests are not over after %s", deadline))
	defer cancel()
	if err := m.boot(ctx, t, results.line); err != nil {
		t.Error(err)
	}
	results.report(t, runs)
}

// prepare builds the machine and the disk with the tests.
func prepare(t *testing.T) *machine {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	output := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("run %s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
		}
		return strings.TrimSpace(string(out))
	}
	dir := t.TempDir()
	m := &machine{dir: dir, tests: filepath.Join(dir, "tests.ext4")}
	bun := output("e2e/tools/get", "bun")
	const rootfs = "driver/sandbox/rootfs/build"
	m.base = output("e2e/vm/build", output(rootfs, bun), output(rootfs, "--image", bun))

	tree := filepath.Join(dir, "tree")
	build := func(kind, to, from string) {
		t.Helper()
		args := []string{kind, "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(tree, to), "./" + from}
		if kind == "test" {
			args = append([]string{"test", "-c"}, args[1:]...)
		}
		output("go", args...)
	}
	build("build", "init", "e2e/vm/init")
	build("build", "out/libexec/buntime-init", "plugins/buntime-init")
	build("build", "out/libexec/buntime-restorer", "plugins/buntime-restorer")
	build("build", "out/plugins/nomad-driver-bun", "plugins/nomad-driver-bun")
	build("build", "out/bin/buntime-frontend", "plugins/buntime-frontend")
	for _, tool := range []string{"nomad", "consul"} {
		output("install", "-D", output("e2e/tools/get", tool), filepath.Join(tree, "bin", tool))
	}
	plan := Plan{Runs: runs}
	for i, run := range runs {
		plan.Runs[i].Args = append([]string{"-test.v=test2json", "-test.timeout=10m"}, run.Args...)
		build("test", filepath.Join(run.Package, Binary), run.Package)
		testdata := filepath.Join(root, run.Package, "testdata")
		if _, err := os.Stat(testdata); err == nil {
			if err := os.CopyFS(filepath.Join(tree, run.Package, "testdata"), os.DirFS(testdata)); err != nil {
				t.Fatal(err)
			}
		}
	}
	text, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, content string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	output("cp", "-r", "go.mod", "jobs", tree)
	write(PlanFile, string(text), 0o644)
	// What tests ask for tools knows where they are in the machine.
	write("e2e/tools/get", "#!/bin/sh\ncase $1 in bun) echo /rootfs/usr/local/bin/bun ;; *) echo "+Tree+"/bin/$1 ;; esac\n", 0o755)
	write(rootfs, "#!/bin/sh\ncase $1 in --image) echo /rootfs.img ;; *) echo /rootfs ;; esac\n", 0o755)
	write("bin/go", "#!/bin/sh\n# go build -o FILE ../plugins/buntime-init\ncp "+Tree+"/out/libexec/buntime-init \"$3\"\n", 0o755)
	output("gcc", "-static", "-O1", "-o", filepath.Join(tree, "bin", "attack"), "driver/agent/testdata/attack.c")
	write("bin/gcc", "#!/bin/sh\n# gcc -static -O1 -Wall -Werror -o FILE testdata/attack.c\ncp "+Tree+"/bin/attack \"$6\"\n", 0o755)
	write("cache/README", "See package vm.\n", 0o644)
	if err := os.Symlink("/rootfs", filepath.Join(tree, "cache", "rootfs-vm")); err != nil {
		t.Fatal(err)
	}

	output("truncate", "-s", "1G", m.tests)
	output("mkfs.ext4", "-q", "-F", "-d", tree, m.tests)
	return m
}
