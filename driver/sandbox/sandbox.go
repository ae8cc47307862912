// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/sandbox/cgroup"
	"github.com/buntime/buntime/driver/sandbox/network"
	"github.com/buntime/buntime/driver/sandbox/workspace"
)

// initSocket, in a slot's directory, is where init listens.
const initSocket = "init.sock"

// bootTimeout bounds what init needs until it serves: some milliseconds on
// a quiet machine.
const bootTimeout = 20 * time.Second

// Spec is what a sandbox is to be.
type Spec struct {
	// Task names the sandbox in logs and to Sweep.
	Task     string
	Hostname string
	Scope    cgroup.Scope
	Limits   cgroup.Limits
	// Disk is the size of the workspace in bytes, Files the most descriptors
	// that a process may have open.
	Disk  int64
	Files int64
	// Image, if not nil, makes the workspace's image at a path where there is
	// nothing: one that was a workspace before. Disk is its size at most. What it
	// has to find again after a restart it may keep in the folder notes.
	Image func(ctx context.Context, path, notes string) (workspace.Source, error)
	Env   map[string]string
	// Dirs are host directories by where they appear in the sandbox, writable,
	// with owners as they are on the host.
	Dirs   map[string]string
	Policy network.Policy
	// Netns is the path of a network namespace to join instead of an own one.
	Netns string
	// Isolation is IsolationProcess where it is empty.
	Isolation Isolation
}

// State is what a sandbox is found by after a restart of the plugin.
type State struct {
	Task   string
	Slot   int
	Pid    int
	Start  uint64 // of Pid, in clock ticks since boot
	Scope  cgroup.Scope
	Policy network.Policy
	Netns  string
	// Owner is the host id of init. 0 in states of version 0.1, in which it
	// followed from Slot.
	Owner int `json:",omitempty"`
	// Isolation is empty in states of version 0.1, which had one class.
	Isolation Isolation `json:",omitempty"`
}

// Sandbox is a live sandbox, or one that has ended and is not yet destroyed.
type Sandbox struct {
	node      *Node
	dir       string
	state     State
	group     *cgroup.Group
	network   *network.Network
	workspace *workspace.Workspace
	proc      *initProcess
	class     isolation
	seen      lastSeen // of IsolationGVisor's units
	lacking   bool

	ending   sync.Mutex
	endNoted bool

	destroy sync.Mutex
	gone    bool
	// doomed: a Destroy has begun, and Sweep finishes it should it fail. The
	// node's lock guards it.
	doomed bool
	// discardScope: there may be cgroups without a whole group.
	discardScope bool
}

// Start makes a sandbox and returns once its init serves.
func (n *Node) Start(ctx context.Context, spec Spec) (_ *Sandbox, err error) {
	class, err := n.class(spec.Isolation)
	if err != nil {
		return nil, err
	}
	slot, dir, err := n.takeSlot()
	if err != nil {
		return nil, err
	}
	s := &Sandbox{node: n, dir: dir, class: class, state: State{
		Task: spec.Task, Slot: slot, Owner: n.config.FirstID + slot*IDsPerSandbox, Scope: spec.Scope, Policy: spec.Policy, Netns: spec.Netns, Isolation: spec.Isolation,
	}}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bootTimeout)
			defer cancel()
			if derr := s.Destroy(ctx); derr != nil {
				err = errors.Join(err, fmt.Errorf("undo: %w", derr))
			}
		}
	}()
	// So that a sweep knows what to remove should this process be killed now.
	if err = n.writeState(s.state); err != nil {
		return nil, fmt.Errorf("write state: %w", err)
	}
	n.starts.RLock()
	err = s.gather(ctx, spec)
	n.starts.RUnlock()
	if err != nil {
		return nil, err
	}
	if err = s.class.boot(s, spec); err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.boxes[slot] = s
	n.mu.Unlock()
	return s, nil
}

// gather makes the parts of the sandbox that do not need each other side by
// side: together they take as long as the slowest.
func (s *Sandbox) gather(ctx context.Context, spec Spec) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		if s.group, err = cgroup.New(spec.Scope, startLimits(spec)); err != nil {
			return fmt.Errorf("create cgroups: %w", err)
		}
		return nil
	})
	g.Go(func() (err error) {
		if spec.Netns != "" {
			s.network, err = s.node.network.Join(spec.Netns)
		} else {
			s.network, err = s.node.network.Create(ctx, s.state.Slot, spec.Policy)
		}
		if err != nil {
			return fmt.Errorf("create network: %w", err)
		}
		return nil
	})
	g.Go(func() (err error) {
		if spec.Image != nil {
			s.workspace, err = s.node.workspaces.CreateFrom(ctx, s.workspaceID(), spec.Disk, s.dir, func(ctx context.Context, path string) (workspace.Source, error) {
				return spec.Image(ctx, path, s.dir)
			})
		} else {
			s.workspace, err = s.node.workspaces.Create(ctx, s.workspaceID(), spec.Disk)
		}
		if err != nil {
			return fmt.Errorf("create workspace: %w", err)
		}
		return nil
	})
	return g.Wait()
}

func (s *Sandbox) workspaceID() string { return filepath.Base(s.dir) }

// boot clones init and takes it through its start.
func (s *Sandbox) boot(spec Spec) error {
	sock := filepath.Join(s.dir, initSocket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock})
	if err != nil {
		return fmt.Errorf("create init's socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	listener, err := l.File()
	if err != nil {
		return fmt.Errorf("create init's socket: %w", err)
	}
	defer listener.Close()
	exit, stderr, err := s.lastFiles()
	if err != nil {
		return err
	}
	defer exit.Close()
	defer stderr.Close()

	keep, err := s.workspace.Keep()
	if err != nil {
		return fmt.Errorf("have init keep the workspace: %w", err)
	}
	if keep >= 0 {
		defer unix.Close(keep)
	}
	p, err := spawn(s.node.init, s.network.NS(), listener, exit, stderr, keep, s.group, s.Owner())
	if err != nil {
		return err
	}
	if err := sacrifice(p.pid); err != nil {
		return errors.Join(err, unix.Kill(p.pid, unix.SIGKILL))
	}
	if err := s.own(p.pid); err != nil {
		return err
	}
	boot, mounts, err := s.layout(spec, p.pid)
	defer closeFiles(mounts)
	if err != nil {
		return err
	}
	return p.start(boot, mounts, bootTimeout)
}

// lastFiles makes the files that tell how init ended.
func (s *Sandbox) lastFiles() (exit, stderr *os.File, err error) {
	if exit, err = os.OpenFile(filepath.Join(s.dir, "exit"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600); err != nil {
		return nil, nil, fmt.Errorf("create exit file: %w", err)
	}
	stderr, err = os.OpenFile(filepath.Join(s.dir, stderrFile), os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		exit.Close()
		return nil, nil, fmt.Errorf("create file for init's errors: %w", err)
	}
	return exit, stderr, nil
}

// own begins to watch the process whose end is the sandbox's, and writes down
// where it is found.
func (s *Sandbox) own(pid int) (err error) {
	s.state.Pid = pid
	if s.proc, err = watch(pid, filepath.Join(s.dir, "exit")); err != nil {
		// Nothing else can end it once we return.
		_ = unix.Kill(pid, unix.SIGKILL)
		return err
	}
	s.state.Start = s.proc.start
	if err := s.node.writeState(s.state); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// Recover finds a sandbox again that an earlier process started. One that has
// ended meanwhile is found too: Done is closed, and Destroy removes what is left.
func (n *Node) Recover(ctx context.Context, st State) (*Sandbox, error) {
	s := &Sandbox{node: n, dir: n.slotDir(st.Slot), state: st}
	var err error
	if s.class, err = n.class(st.Isolation); err != nil {
		return nil, fmt.Errorf("find sandbox of %s: %w", st.Task, err)
	}
	if s.proc, err = find(st.Pid, st.Start, filepath.Join(s.dir, "exit")); err != nil {
		return nil, fmt.Errorf("find init of %s: %w", st.Task, err)
	}
	s.group, err = cgroup.Open(st.Scope)
	switch {
	case err == nil:
	case s.ended(): // cut off while it was put together, or while it was removed
		s.discardScope = true
	default:
		return nil, fmt.Errorf("find cgroups of %s: %w", st.Task, err)
	}
	s.workspace, s.lacking, err = n.workspaces.OpenFrom(ctx, s.workspaceID(), s.dir, s.proc.kept)
	if err != nil && !s.ended() {
		return nil, fmt.Errorf("find workspace of %s: %w", st.Task, err)
	}
	switch {
	case s.ended():
		// What it had on the network went with its namespace, or Sweep finds it.
	case st.Netns != "":
		s.network, err = n.network.Join(st.Netns)
	default:
		s.network, err = n.network.Open(ctx, st.Slot, st.Pid, st.Policy)
	}
	if err != nil && !s.ended() {
		return nil, fmt.Errorf("find network of %s: %w", st.Task, err)
	}
	n.mu.Lock()
	n.boxes[st.Slot] = s
	n.mu.Unlock()
	return s, nil
}

func (s *Sandbox) ended() bool {
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}

// State is what Recover needs.
func (s *Sandbox) State() State { return s.state }

// Isolation is the sandbox's class.
func (s *Sandbox) Isolation() Isolation {
	if s.state.Isolation == "" {
		return IsolationProcess
	}
	return s.state.Isolation
}

// Units finds what executions run in.
func (s *Sandbox) Units() Units { return s.class.units(s) }

// Group is the sandbox's cgroups.
func (s *Sandbox) Group() *cgroup.Group { return s.group }

// Network is the sandbox's network.
func (s *Sandbox) Network() *network.Network { return s.network }

// Workspace is the sandbox's file system.
func (s *Sandbox) Workspace() *workspace.Workspace { return s.workspace }

// Lacking says whether the workspace waits for workspace.Supply: the sandbox was
// recovered, and its Spec had an Image with a Source.
func (s *Sandbox) Lacking() bool { return s.lacking }

// Notes is the folder that Spec.Image was given.
func (s *Sandbox) Notes() string { return s.dir }

// Owner is the host id of init, which is uid 0 inside.
func (s *Sandbox) Owner() int {
	if s.state.Owner == 0 {
		return DefaultFirstID + s.state.Slot*IDsPerSandbox
	}
	return s.state.Owner
}

// Dial connects to init.
func (s *Sandbox) Dial(ctx context.Context) (*wire.Conn, error) {
	name, release, err := s.class.socket(s)
	if err != nil {
		return nil, fmt.Errorf("find init: %w", err)
	}
	defer release()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", name)
	if err != nil {
		return nil, fmt.Errorf("dial init: %w", err)
	}
	return wire.NewConn(c.(*net.UnixConn)), nil
}

// Keep writes a small file that goes with the sandbox, for who serves it.
func (s *Sandbox) Keep(name string, content []byte) error {
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Kept reads what Keep wrote, also in an earlier process.
func (s *Sandbox) Kept(name string) ([]byte, error) { return os.ReadFile(filepath.Join(s.dir, name)) }

// Done is closed when init has ended, and with it everything in the sandbox.
func (s *Sandbox) Done() <-chan struct{} { return s.proc.done }

// Exit says how the sandbox ended, once Done is closed.
func (s *Sandbox) Exit() wire.Exit { return s.proc.exit }

// Kill ends everything in the sandbox at once. Done is closed soon after.
func (s *Sandbox) Kill() error {
	if s.workspace != nil {
		s.workspace.Abandon() // no process can be killed that waits for it
	}
	if err := s.proc.kill(); err != nil {
		return fmt.Errorf("kill init of %s: %w", s.state.Task, err)
	}
	return nil
}

// End is Kill as an end on purpose: Exit then says success.
func (s *Sandbox) End() error {
	if s.ended() {
		return nil
	}
	if err := s.noteEnd(); err != nil {
		return fmt.Errorf("write exit of %s: %w", s.state.Task, err)
	}
	return s.Kill()
}

// noteEnd writes once that the sandbox ends on purpose: it may be read at any time after.
func (s *Sandbox) noteEnd() error {
	s.ending.Lock()
	defer s.ending.Unlock()
	if s.endNoted {
		return nil
	}
	b, err := json.Marshal(wire.Exit{At: time.Now().UnixMilli()})
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, "exit"), b, 0o600)
	}
	s.endNoted = err == nil
	return err
}

// Close lets go of a sandbox that goes on, for another process to Recover.
func (s *Sandbox) Close() {
	s.destroy.Lock()
	defer s.destroy.Unlock()
	if s.gone {
		return
	}
	s.node.mu.Lock()
	delete(s.node.boxes, s.state.Slot)
	s.node.mu.Unlock()
	if s.network != nil {
		s.network.Close()
	}
	if s.workspace != nil {
		_ = s.workspace.Close() // descriptors only
	}
}

// Destroy ends the sandbox if it still runs and removes all that belongs to it.
// It may be called again after an error.
func (s *Sandbox) Destroy(ctx context.Context) error {
	s.destroy.Lock()
	defer s.destroy.Unlock()
	if s.gone {
		return nil
	}
	s.node.mu.Lock()
	s.doomed = true
	s.node.boxes[s.state.Slot] = s
	s.node.mu.Unlock()
	if s.proc != nil {
		if err := s.Kill(); err != nil {
			return err
		}
		select {
		case <-s.Done():
		case <-ctx.Done():
			return fmt.Errorf("wait for init of %s to end: %w", s.state.Task, context.Cause(ctx))
		}
	}
	var errs []error
	if s.group != nil {
		errs = append(errs, s.group.Destroy(ctx))
	} else if s.discardScope {
		errs = append(errs, cgroup.Discard(ctx, s.state.Scope))
	}
	if s.network != nil {
		s.network.Destroy()
	}
	if s.workspace != nil {
		errs = append(errs, s.workspace.Destroy(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("destroy sandbox of %s: %w", s.state.Task, err)
	}
	// Last, since it frees the slot: ids and addresses may be another's now.
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("free slot %d: %w", s.state.Slot, err)
	}
	s.gone = true
	s.node.mu.Lock()
	if s.node.boxes[s.state.Slot] == s {
		delete(s.node.boxes, s.state.Slot)
	}
	s.node.mu.Unlock()
	return nil
}

// MarshalState encodes a State for a task's handle.
func MarshalState(st State) []byte {
	b, _ := json.Marshal(st) // a struct of plain fields
	return b
}

// UnmarshalState reads what MarshalState wrote.
func UnmarshalState(b []byte) (State, error) {
	var st State
	if err := json.Unmarshal(b, &st); err != nil {
		return st, fmt.Errorf("parse state of a sandbox: %w", err)
	}
	return st, nil
}
