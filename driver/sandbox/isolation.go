// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/sandbox/cgroup"
)

// Isolation is the class of a sandbox: what stands between the code in it and
// the host's kernel.
type Isolation string

const (
	// IsolationProcess is the host's kernel with namespaces and all that narrows it.
	IsolationProcess Isolation = "process"
	// IsolationGVisor is a kernel of its own in user space, gVisor's, run by runsc.
	IsolationGVisor Isolation = "gvisor"
)

// isolation is what is not the same in both classes.
type isolation interface {
	// boot starts init, and returns once it serves.
	boot(s *Sandbox, spec Spec) error
	// dial connects to a TCP port in the sandbox.
	dial(ctx context.Context, s *Sandbox, port int) (net.Conn, error)
	// socket is a path of init's socket, good until release is called.
	socket(s *Sandbox) (name string, release func(), err error)
	// units finds what executions run in.
	units(s *Sandbox) Units
}

// class finds the isolation that a name stands for; "" is that of states written
// before there was a choice.
func (n *Node) class(name Isolation) (isolation, error) {
	switch name {
	case IsolationProcess, "":
		return onHost{}, nil
	case IsolationGVisor:
		return inGVisor{}, nil
	}
	return nil, fmt.Errorf("isolation %q is not known", name)
}

// Unit holds all processes of one execution, also those that have left their
// parents.
type Unit interface {
	ID() string
	// JoinFiles opens what goes to init with the request for the unit's first
	// process; the caller closes them. There may be none.
	JoinFiles() ([]*os.File, error)
	// Pids lists the processes by the numbers that Units knows them by.
	Pids() ([]int, error)
	// Kill ends every process and returns once there is none; also of a unit
	// that is gone.
	Kill(ctx context.Context) error
	// Remove removes a unit without processes, and may be called again.
	Remove(ctx context.Context) error
	Stats() (cgroup.Stats, error)
}

// Units are those of a sandbox.
type Units interface {
	New(id string) (Unit, error)
	// Open finds a unit that was made earlier. An error wraps fs.ErrNotExist when
	// there is none.
	Open(id string) (Unit, error)
	// List lists the ids.
	List() ([]string, error)
}

// Process is what is known of a process in a sandbox.
type Process struct {
	// Pid and Parent are what Units number them by, Inside what the sandbox does.
	Pid, Parent, Inside int
	Command             string
	Started             time.Time
	Memory              int64 // bytes, resident
	CPU                 time.Duration
	// Ports are the TCP ports it listens on, and 0 for a unix socket.
	Ports []int
}

// Inspector is implemented by Units that know of their processes what the host
// does not see, and whose memory the host cannot limit one by one.
type Inspector interface {
	// Inspect tells of those of pids that are alive.
	Inspect(pids []int) ([]Process, error)
	// Usage tells what each unit has used.
	Usage() ([]wire.Unit, error)
}

// onHost is IsolationProcess.
type onHost struct{}

func (onHost) boot(s *Sandbox, spec Spec) error { return s.boot(spec) }

func (onHost) dial(ctx context.Context, s *Sandbox, port int) (net.Conn, error) {
	return s.dialNamespace(ctx, port)
}

func (onHost) socket(s *Sandbox) (string, func(), error) {
	return filepath.Join(s.dir, initSocket), func() {}, nil
}

func (onHost) units(s *Sandbox) Units { return hostUnits{s} }

// hostUnits are cgroups of the host.
type hostUnits struct{ box *Sandbox }

type hostUnit struct {
	*cgroup.Execution
	owner int
}

func (u hostUnit) JoinFiles() ([]*os.File, error) { return u.Execution.JoinFiles(u.owner) }

func (h hostUnits) wrap(e *cgroup.Execution, err error) (Unit, error) {
	if err != nil {
		return nil, err
	}
	return hostUnit{e, h.box.Owner()}, nil
}

func (h hostUnits) New(id string) (Unit, error)  { return h.wrap(h.box.group.NewExecution(id)) }
func (h hostUnits) Open(id string) (Unit, error) { return h.wrap(h.box.group.OpenExecution(id)) }
func (h hostUnits) List() ([]string, error)      { return h.box.group.Executions() }
