// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package owner

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// dirEnv has this binary own a directory as a plugin does, and say how that went.
const dirEnv = "BUNTIME_TEST_OWNER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(dirEnv); dir != "" {
		if _, err := Own(context.Background(), dir, hclog.NewNullLogger()); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("owned", os.Getpid())
		if os.Getenv(dirEnv+"_STAYS") != "" {
			time.Sleep(time.Minute) // or until it is killed; `select {}` is a deadlock to Go where there is no cgo
		}
		if err := AwaitAgent(); err != nil {
			fmt.Println(err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// plugin starts one, by a shell as its agent that ends or stays.
func plugin(t *testing.T, dir string, agentStays bool) (said string, p process) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `"$0" & wait`, os.Args[0])
	cmd.Env = append(os.Environ(), dirEnv+"="+dir, dirEnv+"_STAYS=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, _ = bufio.NewReader(out).ReadString('\n')
	var pid int
	if _, err := fmt.Sscanf(said, "owned %d", &pid); err == nil {
		p = running(pid)
		t.Cleanup(func() { _ = p.signal(9) }) // it may have been ended
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if !agentStays {
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_, _ = cmd.Process.Wait() // it was killed; the pipe stays with the other
	}
	return said, p
}

// owned starts a process that owns a directory, and returns what else it says.
func owned(t *testing.T, cmd *exec.Cmd) *bufio.Reader {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(out)
	if said, _ := in.ReadString('\n'); !strings.HasPrefix(said, "owned") {
		t.Fatal(said)
	}
	return in
}

// TestOwn: whose agent is gone gives way, and whose is there does not.
func TestOwn(t *testing.T) {
	t.Run("left behind", func(t *testing.T) {
		dir := t.TempDir()
		said, first := plugin(t, dir, false)
		if first.PID == 0 {
			t.Fatal(said)
		}
		said, second := plugin(t, dir, true)
		if second.PID == 0 {
			t.Fatal(said)
		}
		if first.alive() {
			t.Error("the one that was left behind is still there")
		}
		if said, third := plugin(t, dir, true); third.PID != 0 || !strings.Contains(said, "a state_dir of its own") {
			t.Errorf("beside another agent's: %q", said)
		}
		if !second.alive() {
			t.Error("another agent's was ended")
		}
	})
	t.Run("of the same agent", func(t *testing.T) {
		dir := t.TempDir()
		own := func() *exec.Cmd {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), dirEnv+"="+dir)
			owned(t, cmd)
			return cmd
		}
		first, second := own(), own()
		if err := first.Wait(); err == nil {
			t.Error("the first ended by itself")
		}
		if err := second.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = second.Wait() // it was killed
	})
	t.Run("without an agent", func(t *testing.T) {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `"$0" & wait`, os.Args[0])
		cmd.Env = append(os.Environ(), dirEnv+"="+dir)
		in := owned(t, cmd)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		// It ends, and with it the pipe, of which nobody else has the other end.
		ended := make(chan string, 1)
		go func() { rest, _ := in.ReadString(0); ended <- rest }()
		select {
		case rest := <-ended:
			if rest != "" {
				t.Error(rest)
			}
		case <-time.After(10 * time.Second):
			t.Error("it is still there 10 s after its agent")
		}
		_ = cmd.Wait() // it was killed
	})
	t.Run("a number that is another's by now", func(t *testing.T) {
		dir := t.TempDir()
		f, err := os.Create(filepath.Join(dir, lockFile))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := note(f, holder{process{1, 1}, process{1, 1}}); err != nil {
			t.Fatal(err)
		}
		c, err := Own(t.Context(), dir, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Own(t.Context(), dir, hclog.NewNullLogger()); err == nil {
			t.Error("owned twice")
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestAwaitAgentThatIsGone: a process whose agent ended before it could look who that was
// ends as well.
func TestAwaitAgentThatIsGone(t *testing.T) {
	// The shell gives the process to another parent before that has begun to run.
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `(read go; exec "$0") <&3 & exit 0`, os.Args[0])
	cmd.Env = append(os.Environ(), dirEnv+"="+t.TempDir())
	gate, begin, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer begin.Close()
	cmd.ExtraFiles = []*os.File{gate}
	said, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	agentReads, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	gate.Close()
	stdout.Close()
	stderr.Close()
	if _, err := begin.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(said)
	first, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscanf(first, "owned %d", &pid); err != nil {
		t.Fatal(first)
	}
	p := running(pid)
	defer func() { _ = p.signal(9) }()
	agentReads.Close() // as the end of an agent does
	for deadline := time.Now().Add(10 * time.Second); p.alive(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is still there")
		}
	}
}
