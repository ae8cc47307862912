// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// progress prints one line for each step, with the time it took. On a terminal
// the line of a running step counts the seconds.
type progress struct {
	out      io.Writer
	terminal bool
}

func newProgress(out *os.File) *progress {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return &progress{out: out, terminal: err == nil}
}

// step does what a step does and prints its result.
func (p *progress) step(name string, do func() (result string, err error)) error {
	began := time.Now()
	var result string
	done := make(chan error, 1)
	go func() {
		var err error
		result, err = do()
		done <- err
	}()
	every := time.Second
	if !p.terminal {
		every = 30 * time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.line(name, began, "…", !p.terminal)
		case err := <-done:
			if err != nil {
				result = "not done"
			}
			p.line(name, began, result, true)
			return err
		}
	}
}

// line prints the state of a step. On a terminal it writes over the last one.
func (p *progress) line(name string, began time.Time, result string, end bool) {
	text := fmt.Sprintf("%-14s %7.1f s   %s", name, time.Since(began).Seconds(), result)
	if p.terminal {
		text = "\r\x1b[K" + text
	}
	if end {
		text += "\n"
	}
	fmt.Fprint(p.out, text)
}

// partTimes collects what each part of the system took to start.
type partTimes struct {
	mu   sync.Mutex
	text []string
}

func (t *partTimes) add(part string, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, fmt.Sprintf("%s %.1f s", part, took.Seconds()))
}

func (t *partTimes) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.text, ", ")
}

// makeTarget has make build a target and returns the last line it prints. What
// it says besides is shown only when it fails.
func makeTarget(ctx context.Context, target string) (string, error) {
	cmd := exec.CommandContext(ctx, "make", "--no-print-directory", "-s", target)
	// The make that has started us is not to take this one for its own child.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "MAKEFLAGS=") || strings.HasPrefix(v, "MAKELEVEL=")
	})
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// An interrupt ends the compilers below make too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("make %s: %w\n%s", target, err, bytes.TrimSpace(stderr.Bytes()))
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	return lines[len(lines)-1], nil
}
