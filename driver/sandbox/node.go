// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package sandbox is the host's side of sandboxes: it starts them, finds them
// again after a restart of the plugin, and removes them with all that belongs
// to them. What a sandbox is made of lies in the packages below: cgroup,
// network and workspace; what runs in it in package guest.
package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/buntime/buntime/driver/sandbox/network"
	"github.com/buntime/buntime/driver/sandbox/seccomp"
	"github.com/buntime/buntime/driver/sandbox/workspace"
)

const (
	// IDsPerSandbox is how many host ids a sandbox maps, all that 16 bits hold.
	IDsPerSandbox = 1 << 16
	// DefaultFirstID is the first host id of a node's sandboxes: above what
	// distributions give to people, subordinate ranges of useradd and systemd's
	// dynamic users.
	DefaultFirstID = 0x10000000
	// DefaultLastID is the last: below systemd's foreign ids at 0x7ffe0000.
	DefaultLastID = 0x7ffe0000 - 1

	// userID is who everything but init is, inside.
	userID = 1000
)

// Config is what sandboxes of a node share.
type Config struct {
	// StateDir holds what must be found again after a restart of the plugin.
	StateDir string
	// Rootfs is the host directory or image file (package rootfs) that sandboxes
	// see as their root, read-only.
	Rootfs string
	// Init is the path of the buntime-init binary.
	Init string
	// Bun is the path of Bun inside Rootfs.
	Bun string
	// CertFile is a host file with the certificates that sandboxes trust. It
	// takes the place of Rootfs's own, so that a company's authority that the
	// host knows is known inside.
	CertFile string
	// Runsc is the path of gVisor's runsc, which IsolationGVisor needs.
	Runsc   string
	Network network.Config
	// FirstID and LastID are the host ids for sandboxes, IDsPerSandbox for each,
	// which nobody else on the machine may use. Default: DefaultFirstID and
	// DefaultLastID, if both are 0.
	FirstID, LastID int
	// ReadyWorkspaces of ReadySize bytes are kept made in advance.
	ReadyWorkspaces int
	ReadySize       int64
	// Without are layers to leave out. For tests of what each is worth; no
	// configuration leads here.
	Without []Layer
}

// Node starts and finds the sandboxes of one machine. Its methods may be
// called at the same time.
type Node struct {
	config     Config
	log        hclog.Logger
	init       *os.File
	root       root
	filter     []byte // for seccomp
	network    *network.Manager
	workspaces *workspace.Manager

	// starts is held for reading while a sandbox is put together: a sweep
	// cannot tell its parts from those of a dead one.
	starts sync.RWMutex

	mu    sync.Mutex
	next  int              // where the search for a free slot begins
	boxes map[int]*Sandbox // by slot; nil while one is being started
}

// Open prepares the node. It takes over what an earlier process left.
func Open(config Config, log hclog.Logger) (_ *Node, err error) {
	if config.FirstID == 0 && config.LastID == 0 {
		config.FirstID, config.LastID = DefaultFirstID, DefaultLastID
	}
	n := &Node{config: config, log: log, root: root{path: config.Rootfs}, boxes: make(map[int]*Sandbox)}
	if err := os.MkdirAll(n.path("sandboxes"), 0o700); err != nil {
		return nil, fmt.Errorf("create state directory: %w", err)
	}
	if err := raiseNodeLimits(procSys); err != nil {
		log.Warn("sessions could use up what others of the node need", "error", err)
	}
	if err := limitCore(); err != nil {
		return nil, err
	}
	if n.filter, err = seccomp.Program(); err != nil {
		return nil, err
	}
	if n.init, err = loadInit(config.Init); err != nil {
		return nil, err
	}
	if n.network, err = network.New(config.Network, log.Named("network")); err != nil {
		n.init.Close()
		return nil, fmt.Errorf("prepare the sandboxes' network: %w", err)
	}
	n.workspaces, err = workspace.New(workspace.Config{
		Dir: n.path("workspaces"), Ready: config.ReadyWorkspaces, ReadySize: config.ReadySize,
	}, log.Named("workspace"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare workspaces: %w", err), n.network.Close(false), n.init.Close())
	}
	return n, nil
}

func (n *Node) path(elem ...string) string {
	return filepath.Join(append([]string{n.config.StateDir}, elem...)...)
}

// Close ends what lives in this process and leaves the sandboxes as they are.
// On a node without sandboxes it also removes what they shared.
func (n *Node) Close() error {
	slots, err := n.taken()
	return errors.Join(err,
		n.workspaces.Close(),
		n.network.Close(err == nil && len(slots) == 0),
		n.root.close(),
		n.init.Close())
}

// taken lists the slots that have a directory, so a sandbox or what is left of
// one.
func (n *Node) taken() ([]int, error) {
	entries, err := os.ReadDir(n.path("sandboxes"))
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	var slots []int
	for _, e := range entries {
		if slot, err := strconv.Atoi(e.Name()); err == nil {
			slots = append(slots, slot)
		}
	}
	return slots, nil
}

// takeSlot makes the directory of a free slot. The directory is what makes a
// slot, its host ids and its addresses one sandbox's, also across a restart.
// Slots are taken in turn, so that ids come back into use as late as possible.
func (n *Node) takeSlot() (int, string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := min((n.config.LastID-n.config.FirstID+1)/IDsPerSandbox, n.network.Slots())
	for range count {
		slot := n.next
		n.next = (n.next + 1) % count
		dir := n.slotDir(slot)
		err := os.Mkdir(dir, 0o700)
		if err == nil {
			n.boxes[slot] = nil
			return slot, dir, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return 0, "", fmt.Errorf("take a slot: %w", err)
		}
	}
	return 0, "", fmt.Errorf("all %d slots of the node are in use", count)
}

func (n *Node) slotDir(slot int) string { return n.path("sandboxes", strconv.Itoa(slot)) }

// stateFile, in a slot's directory, is what Sweep knows a sandbox by.
const stateFile = "state.json"

// Sweep removes the sandboxes that nobody has recovered: the leftovers of tasks
// that Nomad has forgotten. Call it when all tasks were recovered.
func (n *Node) Sweep(ctx context.Context) error {
	slots, err := n.taken()
	if err != nil {
		return err
	}
	var errs []error
	for _, slot := range slots {
		n.mu.Lock()
		box, known := n.boxes[slot]
		doomed := box != nil && box.doomed
		n.mu.Unlock()
		if doomed {
			errs = append(errs, box.Destroy(ctx))
		}
		if known {
			continue
		}
		st, err := n.readState(slot)
		if errors.Is(err, fs.ErrNotExist) {
			// Its start was cut off before there was an init. What it had of the
			// network and as workspace is swept below.
			errs = append(errs, os.RemoveAll(n.slotDir(slot)))
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		n.log.Warn("removing a sandbox that no task owns", "task", st.Task, "slot", slot)
		if err := n.removeOrphan(ctx, st); err != nil {
			errs = append(errs, fmt.Errorf("remove sandbox of slot %d: %w", slot, err))
		}
	}
	return errors.Join(append(errs, n.sweepParts())...)
}

// removeOrphan removes a sandbox that nobody owns. Parts of it may be missing while its
// init is alive: whoever put it together was killed, or Nomad has cleaned up after
// a task that it takes for one that never began. Without init the rest can go.
func (n *Node) removeOrphan(ctx context.Context, st State) error {
	box, err := n.Recover(ctx, st)
	if err != nil {
		if kerr := n.killInit(ctx, st); kerr != nil {
			return errors.Join(err, kerr)
		}
		if box, err = n.Recover(ctx, st); err != nil {
			return err
		}
	}
	return box.Destroy(ctx)
}

// killInit ends a sandbox's init, and with it everything inside.
func (n *Node) killInit(ctx context.Context, st State) error {
	proc, err := find(st.Pid, st.Start, filepath.Join(n.slotDir(st.Slot), "exit"))
	if err != nil {
		return fmt.Errorf("find init of %s: %w", st.Task, err)
	}
	if err := proc.kill(); err != nil {
		return fmt.Errorf("kill init of %s: %w", st.Task, err)
	}
	select {
	case <-proc.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for init of %s to end: %w", st.Task, context.Cause(ctx))
	}
}

// sweepParts removes the networks and workspaces of no sandbox.
func (n *Node) sweepParts() error {
	n.starts.Lock()
	defer n.starts.Unlock()
	slots, err := n.taken()
	if err != nil {
		return err
	}
	ids := make([]string, len(slots))
	for i, slot := range slots {
		ids[i] = strconv.Itoa(slot)
	}
	return errors.Join(n.network.Sweep(slots), n.workspaces.Sweep(ids))
}

func (n *Node) readState(slot int) (State, error) {
	var st State
	b, err := os.ReadFile(filepath.Join(n.slotDir(slot), stateFile))
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return st, fmt.Errorf("parse state of slot %d: %w", slot, err)
	}
	return st, nil
}

func (n *Node) writeState(st State) error {
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	name := filepath.Join(n.slotDir(st.Slot), stateFile)
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}
