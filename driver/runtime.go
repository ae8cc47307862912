// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"context"
	"io"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// OpenRuntime opens the machinery that makes sandboxes. The driver calls it
// once in a process, when it is first needed, and again after an error (its
// text is then the driver's health description). It should need no more than
// what running sandboxes need: a rootfs that is gone must not stand in the way
// of Recover. A sandbox of an earlier process that nobody has recovered a while
// later belongs to no task, and is the Runtime's to end. ctx ends with the
// plugin.
type OpenRuntime func(ctx context.Context, config *Config, logger hclog.Logger) (Runtime, error)

// Runtime starts sandboxes and finds them again. Its methods are called
// concurrently; every ctx has a deadline with a cause.
type Runtime interface {
	// Start makes and starts the sandbox of a task and returns once its init
	// serves. For a session it also listens on the task's API and Preview
	// addresses; runners are prepared in the background. A failed Start leaves
	// nothing behind; its error is final for the restart policy unless it is
	// a structs.Recoverable of Nomad's that says otherwise.
	Start(ctx context.Context, task *Task) (Instance, error)

	// Recover finds the sandbox of a task that an earlier process of the plugin
	// started; state is what Instance.State gave then. It is no error that the
	// sandbox has ended meanwhile: the Instance then reports how from Wait, and
	// Destroy removes what is left. After an error no task owns the sandbox any
	// more, so that the Runtime ends and removes it if it should exist. Nomad
	// waits for one task after another when it starts: be quick.
	Recover(ctx context.Context, task *Task, state []byte) (Instance, error)

	// Close stops listening and whatever else lives in this process. It leaves
	// the sandboxes as they are.
	Close() error
}

// Instance is a sandbox of a task. Its methods are called concurrently.
type Instance interface {
	// State is what Recover needs. It is read once, after Start.
	State() []byte

	// Wait returns how the sandbox ended, at once if it has. It may be called
	// any number of times. The error says that this is not known and will not
	// be, or that ctx is done.
	Wait(ctx context.Context) (Exit, error)

	// Signal sends a signal to the main process of an ordinary job. Of
	// a session, which has none, SIGKILL ends the sandbox and any other signal
	// goes to the process group of each running execution.
	Signal(sig unix.Signal) error

	// Stop ends the sandbox: sig to the main process, SIGKILL to everything
	// after timeout. It returns nil once Wait would return. Of a sandbox that
	// has ended it returns nil. The driver never calls it twice at a time.
	Stop(ctx context.Context, sig unix.Signal, timeout time.Duration) error

	// Destroy removes the sandbox and all that belongs to it, and ends it first
	// if it still runs. It may be called again.
	Destroy(ctx context.Context) error

	// Exec runs a command in the sandbox beside what runs there and returns its
	// exit code, 128 and the number of a signal that killed it. Without TTY it
	// returns after the end of both outputs, with TTY once the first process
	// has ended. When ctx is done the command is killed. The error says that
	// the command was not started, or could not be followed to its end.
	Exec(ctx context.Context, opts ExecOptions) (int, error)

	// Stats reads what the sandbox uses now.
	Stats(ctx context.Context) (Usage, error)
}

// Task is what the driver asks a Runtime for.
type Task struct {
	// ID is unique to this start of the task: allocation, task name, and eight
	// random characters, with slashes in between.
	ID      string
	AllocID string
	Name    string
	JobID   string
	NodeID  string

	// Cgroup is the task's cgroup as Nomad names it, from the top of each
	// controller's hierarchy: "/nomad.slice/share.slice/<alloc>.<task>.scope"
	// on v2; "/nomad/<alloc>.<task>" on v1, where Nomad makes it for cpu, memory
	// and freezer only. Empty when Nomad gave none.
	Cgroup string
	// CpusetCgroup, on v1, is the directory of the cpuset cgroup to run in; it
	// may be shared by tasks.
	CpusetCgroup string
	Limits       Limits
	// Isolation is IsolationProcess, as which empty counts, or IsolationGVisor.
	Isolation string

	// Env is for every process of the sandbox. It holds no credentials of the
	// plugin, and for a session nothing of Nomad's.
	Env map[string]string
	// Argv is the main process: Bun with the program and its arguments, as
	// paths in the sandbox. Empty for a session.
	Argv []string
	// Dir is the main process's working directory in the sandbox.
	Dir string

	// Host directories for /local, /secrets and /alloc of the sandbox. Empty
	// for a session, which sees none of them.
	LocalDir, SecretsDir, AllocDir string
	// Stdout and Stderr are where the main process writes: named pipes that
	// Nomad's log collector reads, or /dev/null.
	Stdout, Stderr string

	// Network is what the task may reach; nil is the internet. Always nil with
	// Netns, where the namespace's maker decides.
	Network *NetworkPolicy
	// Ports are to be forwarded from the host to the sandbox.
	Ports []Port
	// Netns is the path of the allocation's network namespace, which the
	// sandbox joins instead of having one of its own. Usually empty.
	Netns string

	// Session is nil for an ordinary job.
	Session *Session
	// Claim makes the session's epoch this allocation's own, and its addresses
	// known. Start calls it once it listens on them, so that no front-end meets
	// whoever had the ports before, and before there is a sandbox. Its error is
	// Start's. Nil for an ordinary job and for Recover.
	Claim func(ctx context.Context) error
	// Rests is where snapshots of the session are noted. Nil for an ordinary job.
	Rests Rests
	// API and Preview are the host:port on which the node agent serves
	// a session.
	API, Preview string
}

// Limits of a sandbox.
type Limits struct {
	Memory    int64   // bytes: memory_max where it is given, else memory
	CPUShares int64   // the task's `cpu` in MHz, a weight among its neighbours
	CPUCores  float64 // quota in cores; 0 is none
	Cpuset    string  // list of reserved cores ("2-3"); empty is none
	Pids      int64   // processes and threads
	Files     int64   // open files of a process
	Disk      int64   // bytes of /workspace
}

// NetworkPolicy is what a task says of its network, checked: what
// network.ParsePolicy takes.
type NetworkPolicy struct {
	Mode  string
	Allow []string
}

// Session says which session a task carries.
type Session struct {
	ID        string
	Epoch     uint64
	ExpiresAt time.Time
	// Slot says that the session is nobody's until a front-end says otherwise. It ends
	// at ExpiresAt if none does.
	Slot bool
}

// Port is a port of the task's network block.
type Port struct {
	Label  string
	Listen string // host:port to listen on
	Port   int    // in the sandbox
}

// Exit is how a sandbox ended.
type Exit struct {
	Code      int
	Signal    int
	OOMKilled bool
	// Err says what else ended it, when it was not its main process.
	Err error
	// At is when; zero if not known.
	At time.Time
}

// ExecOptions is a command for Instance.Exec. Resize delivers sizes of the
// terminal while the command runs and is never closed. Stdout and Stderr may
// be written concurrently. A Read of Stdin that is under way when Exec returns
// ends soon after.
type ExecOptions struct {
	Command []string
	TTY     bool
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer // not used with TTY
	Resize  <-chan wire.Size
}

// Usage is what a sandbox uses, in bytes and time since its start.
type Usage struct {
	RSS       uint64 // anonymous memory
	Cache     uint64 // page cache
	Swap      uint64
	Memory    uint64 // all that counts against the limit
	MemoryMax uint64 // the highest that Memory ever was

	CPUUser, CPUSystem time.Duration
	ThrottledPeriods   uint64
	Throttled          time.Duration
}
