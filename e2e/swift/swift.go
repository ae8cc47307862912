// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package swift starts a real OpenStack Swift on this machine's loopback, for
// tests and for `make run`: proxy, account, container and object server and the
// expirer, one replica on a directory, from Debian's package python3-swift. It
// takes a second or two.
package swift

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// login and password of the one user, whose account it is.
const (
	login    = "tester"
	password = "testing"
)

// python is Debian's: another in the PATH would not know its packages.
const python = "/usr/bin/python3"

var (
	//go:embed server.py
	program []byte
	//go:embed swift.conf.tmpl
	configs string
)

// ports are those of the servers.
type ports struct{ Proxy, Account, Container, Object int }

// Server is a Swift.
type Server struct {
	dir   string
	ports ports
	cmd   *exec.Cmd
	alive io.Closer     // the other end of its standard input
	ended chan struct{} // closed when the process has ended
}

// Start starts a Swift that keeps its data and logs in dir, which must be on a
// file system with extended attributes (ext4, XFS, tmpfs from Linux 6.6 on), and
// returns when it serves. It ends with this process, however that ends. One that
// was stopped goes on, at the same address, where its data is.
func Start(ctx context.Context, dir string) (*Server, error) {
	s := &Server{dir: dir}
	if err := s.prepare(ctx); err != nil {
		return nil, fmt.Errorf("prepare Swift: %w", err)
	}
	if err := s.Start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// AuthURL is where a client logs in, with version 1 of the protocol.
func (s *Server) AuthURL() string { return s.url(s.ports.Proxy) + "/auth/v1.0" }

// User is the name to log in with.
func (s *Server) User() string { return "buntime:" + login }

// Key is the password to log in with.
func (s *Server) Key() string { return password }

// Address is host and port of the proxy, for something to stand in between.
func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.ports.Proxy)) }

func (s *Server) url(port int) string { return "http://127.0.0.1:" + strconv.Itoa(port) }

// prepare writes the configuration.
func (s *Server) prepare(ctx context.Context) error {
	if _, err := os.Stat("/usr/lib/python3/dist-packages/swift"); err != nil {
		return fmt.Errorf("find Swift, which `make packages` installs: %w", err)
	}
	etc := filepath.Join(s.dir, "etc")
	if _, err := os.Stat(filepath.Join(etc, "object.ring.gz")); err == nil {
		return s.readPorts()
	}
	for _, d := range []string{"etc", "disk", "cache"} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o700); err != nil {
			return err
		}
	}
	if err := s.choosePorts(); err != nil {
		return err
	}
	u, err := user.Current()
	if err != nil {
		return err
	}
	data := struct {
		ports
		Dir, User, Login, Password string
	}{s.ports, s.dir, u.Username, login, password}
	t, err := template.New("").Parse(configs)
	if err != nil {
		return err
	}
	for _, name := range []string{"swift", "account", "container", "object", "expirer", "proxy"} {
		var b bytes.Buffer
		if err := t.ExecuteTemplate(&b, name+".conf", data); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(etc, name+".conf"), b.Bytes(), 0o600); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(etc, "server.py"), program, 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, python, filepath.Join(etc, "server.py"), "rings", etc,
		strconv.Itoa(s.ports.Account), strconv.Itoa(s.ports.Container), strconv.Itoa(s.ports.Object)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make rings: %w: %s", err, out)
	}
	return nil
}

// choosePorts takes ports that are free now, and notes them.
func (s *Server) choosePorts() error {
	for _, p := range []*int{&s.ports.Proxy, &s.ports.Account, &s.ports.Container, &s.ports.Object} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close() // not before all are chosen
		*p = l.Addr().(*net.TCPAddr).Port
	}
	text := fmt.Sprintln(s.ports.Proxy, s.ports.Account, s.ports.Container, s.ports.Object)
	return os.WriteFile(filepath.Join(s.dir, "ports"), []byte(text), 0o600)
}

func (s *Server) readPorts() error {
	text, err := os.ReadFile(filepath.Join(s.dir, "ports"))
	if err != nil {
		return err
	}
	_, err = fmt.Sscan(string(text), &s.ports.Proxy, &s.ports.Account, &s.ports.Container, &s.ports.Object)
	return err
}

// startTimeout is generous: it takes a second on a machine with nothing to do.
const startTimeout = 60 * time.Second

// Start starts it again after Stop or Signal has ended it.
func (s *Server) Start(ctx context.Context) error {
	if err := s.launch(); err != nil {
		return fmt.Errorf("start Swift: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not up after %s", startTimeout))
	defer cancel()
	for _, port := range []int{s.ports.Account, s.ports.Container, s.ports.Object, s.ports.Proxy} {
		if err := s.untilHealthy(ctx, port); err != nil {
			log, _ := os.ReadFile(s.log())
			return errors.Join(fmt.Errorf("start Swift: %w: %s", err, log[max(0, len(log)-2000):]), s.Stop())
		}
	}
	return nil
}

func (s *Server) log() string { return filepath.Join(s.dir, "log") }

func (s *Server) launch() error {
	log, err := os.OpenFile(s.log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	etc := filepath.Join(s.dir, "etc")
	cmd := exec.Command(python, filepath.Join(etc, "server.py"), "serve", etc)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+etc, "PYTHONDONTWRITEBYTECODE=1")
	cmd.Stdout, cmd.Stderr = log, log
	// So that Ctrl-C in a terminal does not reach it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	alive, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is of no use to anyone
		close(ended)
	}()
	s.cmd, s.alive, s.ended = cmd, alive, ended
	return nil
}

// untilHealthy asks a server again and again until it answers.
func (s *Server) untilHealthy(ctx context.Context, port int) error {
	for {
		err := healthy(ctx, s.url(port)+"/healthcheck")
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return errors.New("it has ended")
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(20 * time.Millisecond): // nobody says when it listens
		}
	}
}

func healthy(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// Signal sends a signal to all its processes: SIGKILL for a crash, SIGSTOP and
// SIGCONT for one that hangs.
func (s *Server) Signal(sig syscall.Signal) error {
	// Not by group: each server makes itself a session of its own. The first
	// process has no other children, and those die with it.
	pid := s.cmd.Process.Pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return fmt.Errorf("signal Swift: %w", err)
	}
	for _, field := range append(strings.Fields(string(children)), strconv.Itoa(pid)) {
		p, err := strconv.Atoi(field)
		if err == nil {
			err = syscall.Kill(p, sig)
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signal Swift: %w", err)
		}
	}
	return nil
}

// Stop ends it. The data stays in its directory.
func (s *Server) Stop() error {
	defer s.alive.Close()
	select {
	case <-s.ended:
		return nil
	default:
	}
	// There is nothing to be lost: what was acknowledged is on the disk.
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop Swift: %w", err)
	}
	late := time.After(startTimeout)
	select {
	case <-s.ended:
	case <-late:
		return fmt.Errorf("stop Swift: still there after %s", startTimeout)
	}
	for s.remains() {
		select {
		case <-time.After(5 * time.Millisecond): // they have their signal
		case <-late:
			return fmt.Errorf("stop Swift: servers still there after %s", startTimeout)
		}
	}
	return nil
}

// remains says whether one of its processes is there: the servers have children of
// their own now and then. Those that nobody has waited for have no command line.
func (s *Server) remains() bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is right
	for _, file := range files {
		line, _ := os.ReadFile(file) // empty for one that has just ended
		if bytes.Contains(line, []byte(filepath.Join(s.dir, "etc", "server.py"))) {
			return true
		}
	}
	return false
}
