// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package restorer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/snapshot"
	"github.com/buntime/buntime/driver/snapshot/backend"
	"github.com/buntime/buntime/driver/snapshot/store"
)

const (
	// alone is how long the restorer is there with nothing to serve and no plugin.
	alone = 30 * time.Second
	// oomScore is that of the sandboxes: what there is to serve survives its end.
	oomScore = 500
)

// Run serves until there is nothing more to do. That there is another restorer already
// is no error.
func Run(stateDir string) error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(oomScore)), 0o644); err != nil {
		return fmt.Errorf("set score for lack of memory: %w", err)
	}
	unix.Umask(0o077)
	lock, err := os.OpenFile(filepath.Join(stateDir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open lock: %w", err)
	}
	defer lock.Close()
	if first, err := takeLock(lock); !first {
		return err
	}
	socket := socketOf(stateDir)
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) { // a dead one's
		return fmt.Errorf("listen: %w", err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s := &server{
		listener: l, images: map[string]*image{}, repos: map[string]*snapshot.Repository{},
		changed: make(chan struct{}, 1), grace: alone,
	}
	return s.run()
}

// takeLock says whether this is the only restorer. One that ends may have the lock for
// a moment yet.
func takeLock(lock *os.File) (bool, error) {
	const tries, pause = 100, 10 * time.Millisecond
	for range tries {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return false, fmt.Errorf("lock: %w", err)
		}
		time.Sleep(pause)
	}
	return false, nil
}

// server is a restorer. It lives as long as its process, which ends what it has begun.
type server struct {
	listener *net.UnixListener
	fetched  tally

	mu      sync.Mutex
	images  map[string]*image               // by id
	repos   map[string]*snapshot.Repository // by what the store asks for
	clients int                             // connections
	grace   time.Duration                   // until the end, without clients and images
	changed chan struct{}
}

func (s *server) run() error {
	failed := make(chan error, 1)
	go func() {
		for {
			c, err := s.listener.AcceptUnix()
			if err != nil {
				failed <- fmt.Errorf("accept: %w", err)
				return
			}
			s.count(1)
			go func() {
				defer s.count(-1)
				defer c.Close()
				if ofUser(c) {
					s.serve(c)
				}
			}()
		}
	}()
	timer := time.NewTimer(alone)
	for {
		select {
		case err := <-failed:
			return err
		case <-s.changed:
			// Who comes now has its connection cut, and starts another restorer.
			timer.Reset(s.patience())
		case <-timer.C:
			if s.patience() == never {
				continue
			}
			return s.listener.Close()
		}
	}
}

const never = 1 << 62

// patience is how long to wait from now on until the end.
func (s *server) patience() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.images) > 0 || s.clients > 0 && !replaced():
		return never
	case s.clients > 0:
		return 0
	}
	return s.grace
}

// replaced says whether the program has been: then a newer one is to serve what comes.
func replaced() bool {
	exe, err := os.Readlink("/proc/self/exe")
	return err == nil && strings.HasSuffix(exe, " (deleted)")
}

func (s *server) poke() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *server) count(n int) {
	s.mu.Lock()
	s.clients += n
	if n > 0 {
		s.grace = alone
	}
	s.mu.Unlock()
	s.poke()
}

// serve serves a connection.
func (s *server) serve(c *net.UnixConn) {
	m, fds, err := receive(c)
	if err != nil {
		return
	}
	if m.Op == opServe && len(fds) > 0 {
		s.serveImage(c, m, fds)
		return
	}
	closeAll(fds)
	if m.Op == opHold {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go s.fetched.tell(ctx, c) // until the connection ends
	}
	for m.Op == opHold {
		next, fds, err := receive(c)
		closeAll(fds)
		if err == nil && next.Op == opLeave {
			s.mu.Lock()
			s.grace = 0
			s.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// serveImage serves an image, and tells of it.
func (s *server) serveImage(c *net.UnixConn, m message, fds []int) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan struct{}, 1)
	go func() { // until the connection ends
		defer cancel()
		for {
			next, fds, err := receive(c)
			closeAll(fds)
			if err != nil {
				return
			}
			if next.Op == opEnd {
				select {
				case ended <- struct{}{}:
				default:
				}
			}
		}
	}()
	i, err := s.image(ctx, m, fds)
	if err != nil {
		text := err.Error()
		_ = send(c, message{Op: saysError, Error: text[:min(len(text), longestError)]}) // who is not there does not hear it
		return
	}
	if send(c, message{Op: saysServing}) != nil {
		return
	}
	done := i.done
	for {
		select {
		case <-done:
			done = nil
			if send(c, message{Op: saysDone, Early: i.early}) != nil {
				return
			}
		case <-ended:
			i.server.Abandon()
		case <-ctx.Done():
			return
		}
	}
}

// image returns the image that a message asks for, which may be served already. It takes
// the descriptors over.
func (s *server) image(ctx context.Context, m message, fds []int) (*image, error) {
	s.mu.Lock()
	i := s.images[m.ID]
	if i == nil {
		i = &image{id: m.ID, begun: make(chan struct{}), done: make(chan struct{})}
		s.images[m.ID] = i
		s.mu.Unlock()
		if i.err = s.begin(ctx, i, m, fds); i.err != nil {
			s.drop(i)
		} else {
			go s.watch(i)
		}
		close(i.begun)
		return i, i.err
	}
	s.mu.Unlock()
	closeAll(fds)
	select {
	case <-i.begun:
		return i, i.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (s *server) drop(i *image) {
	s.mu.Lock()
	delete(s.images, i.id)
	s.mu.Unlock()
	s.poke()
}

// repository opens the repository in a store.
func (s *server) repository(c backend.Config) (*snapshot.Repository, error) {
	key, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.repos[string(key)]; r != nil {
		return r, nil
	}
	objects, _, err := backend.Open(c) // until the process ends: there is one, rarely two
	if err != nil {
		return nil, err
	}
	r, err := snapshot.New(store.Observed(objects, s.fetched.observe), snapshot.Config{})
	if err == nil {
		s.repos[string(key)] = r
	}
	return r, err
}
