// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// marker is the environment variable that all processes of a stack carry, the
// plugins too, which Nomad starts: they are found by it. Those of a client carry
// clientMarker beside it.
const (
	marker       = "BUNTIME_STACK"
	clientMarker = "BUNTIME_STACK_CLIENT"
)

// process is a part of the stack that Start has started.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    string        // path
	exited chan struct{} // closed at the end; err then says how
	err    error
}

// spawn starts a program whose output goes to the end of <dir>/<name>.log, with
// env beside what all have. It has a process group of its own, so that Ctrl-C in
// a terminal reaches only the program that runs the stack.
func (s *Stack) spawn(name string, env []string, path string, args ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(s.Dir, name+".log"), exited: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	// go-plugin makes its sockets in TMPDIR and leaves them when it is killed.
	tmp := filepath.Join(s.Dir, "tmp")
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return nil, fmt.Errorf("make folder for temporary files: %w", err)
	}
	p.cmd = exec.Command(path, args...)
	p.cmd.Env = append(os.Environ(), marker+"="+s.Dir, "TMPDIR="+tmp)
	p.cmd.Env = append(append(p.cmd.Env, s.options.Env...), env...)
	p.cmd.Dir = s.Dir
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	go func() {
		p.cmd.Wait() //nolint:errcheck // what it answers is in ProcessState
		p.err = fmt.Errorf("%s has ended: %s", p.name, p.cmd.ProcessState)
		close(p.exited)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// alive says whether the process runs.
func (p *process) alive() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// signal sends a signal, if the process has not ended.
func (p *process) signal(signal os.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// kill sends a signal and waits for the end.
func (p *process) kill(ctx context.Context, signal os.Signal) error {
	if err := p.signal(signal); err != nil {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of %s after signal %v: %w", p.name, signal, context.Cause(ctx))
	}
}

// stopTimeout is how long a part may take to end by itself.
const stopTimeout = 20 * time.Second

// stop ends the process as its operator would, and by force if it does not
// end in time, which is an error.
func (p *process) stop(ctx context.Context, signal os.Signal) error {
	if p == nil {
		return nil
	}
	gentle, cancel := context.WithTimeoutCause(ctx, stopTimeout, fmt.Errorf("still there after %s", stopTimeout))
	defer cancel()
	err := p.kill(gentle, signal)
	if err == nil {
		return nil
	}
	hard, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), stopTimeout, fmt.Errorf("still there after %s", stopTimeout))
	defer cancel()
	return errors.Join(err, p.kill(hard, syscall.SIGKILL))
}

// until asks again and again until ask has no error. It fails at once when the
// process ends.
func (p *process) until(ctx context.Context, ask func(context.Context) error) error {
	const pause = 20 * time.Millisecond // none of the parts starts in less
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.exited:
			cancel(p.err)
		case <-ctx.Done():
		}
	}()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("%w; last answer: %w; end of its log:\n%s", context.Cause(ctx), err, p.tail())
		}
	}
}

func (p *process) tail() string {
	text, err := tail(p.log, 20)
	if err != nil {
		return err.Error()
	}
	return text
}

// tail is the last n lines of a file.
func tail(path string, n int) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	lines := strings.Split(string(bytes.TrimSpace(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n"), nil
}

// get asks a part for a URL and wants status 200.
func (s *Stack) get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if c := s.Secured; c != nil {
		req.Header.Set("X-Nomad-Token", c.nomadToken)
		req.Header.Set("X-Consul-Token", c.consulToken)
	}
	res, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", url, err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: %s: %s", url, res.Status, bytes.TrimSpace(body))
	}
	return body, nil
}
