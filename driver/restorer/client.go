// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package restorer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// Config of a Client.
type Config struct {
	// Path is that of the restorer's binary, Env its environment.
	Path string
	Env  []string
	// StateDir has the restorer's socket. There is one restorer for each.
	StateDir string
	// Started, Up and Fetched, if set, are told what becomes of the restorer: that one
	// is started, whether there is one, and what it has fetched since it said so last.
	Started func()
	Up      func(bool)
	Fetched func(Fetched)
}

// Supported says whether the kernel, and the binary, can do what is needed. Another process
// tries: see the package's comment.
func (c Config) Supported(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, c.Path, "check")
	cmd.Env = c.Env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("check restorer: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Client has a restorer run, and asks it to serve. Its methods may be called from any
// goroutine.
type Client struct {
	config Config
	log    hclog.Logger
	ctx    context.Context // ends with Close
	stop   context.CancelFunc
	work   sync.WaitGroup
}

// New returns a client, and has a restorer started in the background unless there is
// one.
func New(config Config, log hclog.Logger) *Client {
	c := &Client{config: config, log: log}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.work.Go(c.hold)
	return c
}

// Close leaves the restorer to what it serves. With nothing to serve it ends.
func (c *Client) Close() {
	c.stop()
	c.work.Wait()
}

const (
	// startPause is between two looks for a restorer that was started: it takes some
	// milliseconds.
	startPause = 2 * time.Millisecond
	// startTimeout is until another is started in its place.
	startTimeout = 5 * time.Second
	// diePause keeps one that dies at once from being started all the time.
	diePause = 100 * time.Millisecond
)

// hold has a restorer be there until Close.
func (c *Client) hold() {
	for c.ctx.Err() == nil {
		conn, err := c.connect()
		if err != nil && c.ctx.Err() == nil {
			c.log.Error("no restorer: sessions that wake will wait, or not wake", "error", err)
		}
		if err == nil {
			err = send(conn, message{Op: opHold})
			leave := context.AfterFunc(c.ctx, func() {
				_ = send(conn, message{Op: opLeave}) // or it has ended
				_ = conn.Close()
			})
			c.up(err == nil)
			for err == nil {
				err = c.hear(conn)
			}
			c.up(false)
			if leave() {
				_ = conn.Close()
				c.log.Warn("the restorer has ended; starting another")
			}
		}
		select {
		case <-time.After(diePause):
		case <-c.ctx.Done():
		}
	}
}

func (c *Client) up(is bool) {
	if c.config.Up != nil {
		c.config.Up(is)
	}
}

// hear takes one word of the restorer's. An error says that it has ended.
func (c *Client) hear(conn *net.UnixConn) error {
	m, fds, err := receive(conn)
	closeAll(fds)
	if err == nil && m.Fetched != nil && c.config.Fetched != nil {
		c.config.Fetched(*m.Fetched)
	}
	return err
}

// connect connects to the restorer, and starts one if there is none.
func (c *Client) connect() (*net.UnixConn, error) {
	conn, err := c.dial()
	if err == nil {
		return conn, nil
	}
	if err := c.start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(c.ctx, startTimeout, fmt.Errorf("it has said nothing in %s", startTimeout))
	defer cancel()
	return c.dialSoon(ctx)
}

func (c *Client) dial() (*net.UnixConn, error) {
	return net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socketOf(c.config.StateDir), Net: "unixpacket"})
}

// dialSoon connects to the restorer as soon as there is one.
func (c *Client) dialSoon(ctx context.Context) (*net.UnixConn, error) {
	for {
		conn, err := c.dial()
		if err == nil {
			return conn, nil
		}
		select {
		case <-time.After(startPause):
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to restorer: %w: %w", err, context.Cause(ctx))
		}
	}
}

// mostLog is how long the restorer's log may become: it has only what it dies of.
const mostLog = 1 << 20

// start starts a restorer that has nothing of this process's.
func (c *Client) start() error {
	path := filepath.Join(c.config.StateDir, logName)
	if st, err := os.Stat(path); err == nil && st.Size() > mostLog {
		_ = os.Remove(path) // or it grows on
	}
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open restorer's log: %w", err)
	}
	defer log.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	pidfd := -1
	p, err := os.StartProcess(c.config.Path, []string{c.config.Path, c.config.StateDir}, &os.ProcAttr{
		Dir: "/", Env: c.config.Env, Files: []*os.File{null, null, log},
		Sys: &unix.SysProcAttr{Setsid: true, PidFD: &pidfd},
	})
	if err != nil {
		return fmt.Errorf("start restorer: %w", err)
	}
	if c.config.Started != nil {
		c.config.Started()
	}
	pid := p.Pid
	_ = p.Release() // it always does
	if pidfd >= 0 {
		c.work.Go(func() { c.reap(pid, pidfd) })
	}
	return nil
}

// reap takes the restorer's end, if it comes before Close.
func (c *Client) reap(pid, pidfd int) {
	// One that blocks cannot be let go of.
	if err := unix.SetNonblock(pidfd, true); err != nil {
		_ = unix.Close(pidfd)
		return
	}
	f := os.NewFile(uintptr(pidfd), "pidfd")
	defer f.Close()
	defer context.AfterFunc(c.ctx, func() { _ = f.Close() })()
	raw, err := f.SyscallConn()
	if err == nil {
		err = raw.Read(func(fd uintptr) bool {
			n, perr := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 && perr == nil
		})
	}
	if err == nil {
		_, _ = unix.Wait4(pid, nil, 0, nil)
	}
}

// Served is an image that is being served. It implements workspace.Service.
type Served struct {
	conn         *net.UnixConn
	done, broken chan struct{}
}

// Request is what Serve serves.
type Request struct {
	// ID tells what is served from all else; asked for it again, the restorer goes on.
	ID string
	// Path is where the image is to be made, unless there is an Image.
	Path  string
	Image *os.File
	// Device is FUSE's for the image.
	Device int
	// Restore is where the image comes from; nil if all of it is there.
	Restore *Restore
	// Learnt, if set, is told what snapshot.Lazy.Learnt has, before Done.
	Learnt func(early []uint32)
}

// errBroken: the restorer has ended and not answered.
var errBroken = errors.New("the restorer has ended")

// Serve has an image served, and returns as soon as it is. The caller closes what it
// returns.
func (c *Client) Serve(ctx context.Context, r Request) (*Served, error) {
	for {
		s, err := c.serve(ctx, r)
		if !errors.Is(err, errBroken) || ctx.Err() != nil {
			return s, err
		}
		if r.Path != "" && r.Restore != nil { // what it has begun is of no use
			for _, path := range []string{r.Path, r.Restore.Arrived} {
				if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return nil, fmt.Errorf("serve image: %w", err)
				}
			}
		}
		select { // it may listen for a moment yet
		case <-time.After(startPause):
		case <-ctx.Done():
		}
	}
}

func (c *Client) serve(ctx context.Context, r Request) (*Served, error) {
	conn, err := c.dialSoon(ctx)
	if err != nil {
		return nil, err
	}
	hangUp := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = ask(conn, r)
	if !hangUp() {
		err = errors.Join(err, context.Cause(ctx))
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("serve image: %w", err)
	}
	s := &Served{conn: conn, done: make(chan struct{}), broken: make(chan struct{})}
	go s.listen(r.Learnt) // until Close
	return s, nil
}

// ask sends a request and waits for the answer.
func ask(conn *net.UnixConn, r Request) error {
	fds := []int{r.Device}
	if r.Image != nil {
		fds = append(fds, int(r.Image.Fd()))
	}
	if err := send(conn, message{Op: opServe, ID: r.ID, Path: r.Path, Restore: r.Restore}, fds...); err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	answer, _, err := receive(conn)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errBroken, err)
	case answer.Op != saysServing:
		return errors.New(answer.Error)
	}
	return nil
}

func (s *Served) listen(learnt func([]uint32)) {
	defer close(s.broken)
	for {
		m, fds, err := receive(s.conn)
		closeAll(fds)
		if err != nil {
			return
		}
		if m.Op == saysDone {
			if learnt != nil {
				learnt(m.Early)
			}
			close(s.done)
		}
	}
}

// Done is closed when all of the image is there.
func (s *Served) Done() <-chan struct{} { return s.done }

// Broken is closed when nobody serves the image any more, or Close was called.
func (s *Served) Broken() <-chan struct{} { return s.broken }

// End has whoever waits for what is not there get an error.
func (s *Served) End() error { return send(s.conn, message{Op: opEnd}) }

// Close lets go of the image, which is served on.
func (s *Served) Close() {
	_ = s.conn.Close()
	<-s.broken
}
