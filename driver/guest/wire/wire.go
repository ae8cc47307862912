// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package wire is what the node agent and a sandbox's init say to each other.
//
// Init listens on a unix socket whose path lies on the host; the listener is
// handed to it at start, so that a restarted driver plugin can dial it again.
// One connection carries one request: the agent sends a KindRequest frame
// (with file descriptors where the operation takes them), then frames go both
// ways until either side closes. A closed connection means that nobody looks
// any more; it never ends what was started.
//
// A frame is a kind (1 byte), a length (4 bytes, big endian) and the payload.
// File descriptors travel with the first byte of the frame they belong to.
package wire

import "strings"

// Kind tells what a frame's payload is.
type Kind byte

// From the agent to init.
const (
	KindRequest  Kind = 'Q' // JSON Request; descriptors as the operation says
	KindStdin    Kind = 'i' // bytes for standard input; empty means end of file
	KindResize   Kind = 'w' // JSON Size
	KindSignal   Kind = 's' // JSON Signal, to the whole process group of the execution's first process
	KindJournal  Kind = 'j' // three descriptors: stdout, stderr, order (see OpRun)
	KindReleased Kind = 'r' // the agent will not look at this execution again
	KindBoot     Kind = 'b' // JSON Boot with its mounts' descriptors, once, on descriptor 3
)

// From init to the agent.
const (
	KindStdout Kind = 'o' // bytes
	KindStderr Kind = 'e' // bytes
	KindEvent  Kind = 'v' // JSON Event
)

// JournalFull is the last entry of a journal's order, with a length of 0, where
// output came that there was no room for.
const JournalFull Kind = 'x'

// MaxData is the largest payload of a data frame that init sends.
const MaxData = 64 << 10

// IsEntry tells whether a file of this name, in a directory that code runs in,
// is the module of running code, which init puts there for as long as its
// process lives: .buntime.ts, .buntime-2.ts and so on.
func IsEntry(name string) bool {
	n, ok := strings.CutPrefix(name, ".buntime")
	if !ok {
		return false
	}
	if n, ok = strings.CutSuffix(n, ".ts"); !ok {
		return false
	}
	return n == "" || n[0] == '-' && len(n) > 1 && strings.Trim(n[1:], "0123456789") == ""
}

// MaxRequest bounds a request frame: code of a whole execution travels in it.
const MaxRequest = 64 << 20

// Op names an operation.
type Op string

// The operations of init.
const (
	// OpPing answers one Event "pong" and closes.
	OpPing Op = "ping"
	// OpPrepare starts a runner: a Bun process that waits in its gate for
	// code. Descriptors: what gets the process into its cgroups before it becomes
	// Bun: on v2 a directory to be born in, first; then files of v1 to write "0"
	// to (package cgroup). Answers Event "ready" (Pid set) once the gate is
	// reached, or "failed". The runner lives on after the connection closes.
	OpPrepare Op = "prepare"
	// OpRun hands code to the prepared runner of the same ID, or, without
	// Code, starts Argv as a new process (a command); descriptors then as with
	// OpPrepare. A runner that would not do what a fresh Bun does (it died, what
	// Bun read at its start has changed, Env is not the one it was prepared
	// with) is replaced by a fresh Bun in the same cgroups first, which takes
	// some milliseconds more. Events: "started", then data frames, "evaluated",
	// "exiting", and last "exited", after which init sends nothing more; it
	// still takes frames until the agent closes.
	// A KindJournal frame may follow at any time: init then appends all output,
	// from the first byte on, to the first two files and to the third, per
	// piece, one byte 'o' or 'e' and the piece's length (4 bytes, big endian), up
	// to 64 MiB; JournalFull ends it then.
	// Until then init keeps up to 1 MiB of it, then lets the execution wait;
	// after 10 s it drops the oldest output instead and says so on stderr.
	OpRun Op = "run"
	// OpExec starts Argv with its input and output on the connection, TTY or
	// not (`nomad alloc exec`). Descriptors as with OpPrepare. It dies with the
	// connection (SIGHUP to its group, SIGKILL 5 s later).
	OpExec Op = "exec"
	// OpMain starts the task's main process: an ordinary Bun job. Descriptors:
	// stdout and stderr first, then as with OpPrepare. Answers "started" or
	// "failed" and closes. When the process has exited, init writes its Exit to
	// the exit file and exits itself.
	OpMain Op = "main"
	// OpAttach follows a running or ended execution: Event "attached" with
	// Offset (bytes of output so far, which the agent finds in the journal; 0
	// where none was given) and State, then as OpRun from there on. Ended
	// executions are kept until they are released, at most the newest 64.
	OpAttach Op = "attach"
	// OpList answers one Event "list".
	OpList Op = "list"
	// OpSignal sends Signal to process Pid (numbers as inside the sandbox), or
	// to the process group -Pid. Answers "signalled" or "failed".
	OpSignal Op = "signal"
	// OpDiscard ends a prepared runner that is not wanted any more. Answers
	// "exited" once it is gone, or "failed".
	OpDiscard Op = "discard"
	// OpDial connects to TCP port Port in the sandbox. Answers "connected", after
	// which the connection is no longer framed but what the program there reads
	// and writes, or "failed" with the errno as Code.
	OpDial Op = "dial"
)

// The following operations are for a sandbox whose processes the host cannot
// see, one that booted with Boot.Units: init then keeps the cgroup of each
// execution, which it makes under the request's ID, and descriptors that would
// get a process into one are not sent.
const (
	// OpUnits answers one Event "units" with what each has used, or only the one
	// of ID.
	OpUnits Op = "units"
	// OpKill ends all processes of the unit ID. Answers "exited" once there is
	// none, or "failed". One that is not there has none.
	OpKill Op = "kill"
	// OpRemove forgets the unit ID, which has no process. Answers "exited" or
	// "failed".
	OpRemove Op = "remove"
	// OpInspect answers one Event "processes" with those of Pids that are alive.
	OpInspect Op = "inspect"
)

// Request is the payload of a KindRequest frame.
type Request struct {
	Op Op `json:"op"`
	// ID names an execution or a runner: the execution's id from the start.
	ID string `json:"id,omitempty"`
	// Code is the module's source for a prepared runner.
	Code *string `json:"code,omitempty"`
	// Label, of an OpRun, is kept with the execution and given back by OpList
	// and OpAttach: what a restarted plugin needs to know of it.
	Label string `json:"label,omitempty"`
	// Argv is the command, its first word looked up in the PATH of Env.
	Argv []string `json:"argv,omitempty"`
	// Env is added to (and wins over) the sandbox's environment.
	Env map[string]string `json:"env,omitempty"`
	// Dir is an absolute path in the sandbox.
	Dir string `json:"dir,omitempty"`
	TTY bool   `json:"tty,omitempty"`
	// Stdin tells OpExec that input will come. Without it, input is /dev/null.
	Stdin  bool `json:"stdin,omitempty"`
	Pid    int  `json:"pid,omitempty"`
	Signal int  `json:"signal,omitempty"`
	// Port is OpDial's, Pids are OpInspect's.
	Port int   `json:"port,omitempty"`
	Pids []int `json:"pids,omitempty"`
}

// Size is a terminal's.
type Size struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Signal is the payload of KindSignal.
type Signal struct {
	Signal int `json:"signal"`
}

// Event names.
const (
	EventPong      = "pong"
	EventReady     = "ready"
	EventFailed    = "failed"
	EventStarted   = "started"
	EventEvaluated = "evaluated" // the module's top level, awaits included, is over
	EventExiting   = "exiting"   // the exit code is known and all output was sent; the process tears itself down
	EventExited    = "exited"    // the first process is reaped
	EventAttached  = "attached"
	EventList      = "list"
	EventSignalled = "signalled"
	EventConnected = "connected"
	EventUnits     = "units"
	EventProcesses = "processes"
)

// Event is the payload of a KindEvent frame.
type Event struct {
	Event string `json:"event"`
	// Pid as inside the sandbox.
	Pid int `json:"pid,omitempty"`
	// Code is the exit code; 128+Signal for a death by signal. With EventFailed
	// of a command it is what a shell would say: 127 where it was not found, 126
	// where it cannot be executed.
	Code   int    `json:"code"`
	Signal int    `json:"signal,omitempty"`
	Offset int64  `json:"offset,omitempty"`
	State  string `json:"state,omitempty"` // running, exited
	Error  string `json:"error,omitempty"`
	// Stale, with EventFailed of OpRun: init knows of no runner prepared under
	// this ID; nothing of the request was run.
	Stale      bool        `json:"stale,omitempty"`
	Executions []Execution `json:"executions,omitempty"`
	Units      []Unit      `json:"units,omitempty"`
	Processes  []Process   `json:"processes,omitempty"`
}

// Unit is the cgroup of one execution, and what it has used.
type Unit struct {
	ID   string `json:"id"`
	Pids []int  `json:"pids,omitempty"`
	// Memory is held now, MemoryPeak the most that was seen, in bytes.
	Memory     int64 `json:"memory"`
	MemoryPeak int64 `json:"memoryPeak"`
	CPU        int64 `json:"cpu"` // nanoseconds
}

// Process is a process of the sandbox.
type Process struct {
	Pid       int    `json:"pid"`
	Parent    int    `json:"parent"`
	Command   string `json:"command"`
	StartedAt int64  `json:"startedAt"` // unix milliseconds
	Memory    int64  `json:"memory"`    // bytes, resident
	CPU       int64  `json:"cpu"`       // nanoseconds
	// Ports are the TCP ports it listens on, with 0 for a unix socket.
	Ports []int `json:"ports,omitempty"`
}

// Execution is one entry of a list: a prepared runner, or an execution that
// runs or has ended and was not released.
type Execution struct {
	ID        string   `json:"id"`
	State     string   `json:"state"`
	Label     string   `json:"label,omitempty"`
	Pid       int      `json:"pid"`
	Argv      []string `json:"argv,omitempty"`
	StartedAt int64    `json:"startedAt"` // unix milliseconds; 0 while prepared
	Evaluated bool     `json:"evaluated,omitempty"`
	Offset    int64    `json:"offset"`
	Code      int      `json:"code"`
	Signal    int      `json:"signal,omitempty"`
}

// Exit is what init leaves in the exit file of a sandbox with a main process.
type Exit struct {
	Code   int    `json:"code"`
	Signal int    `json:"signal,omitempty"`
	Error  string `json:"error,omitempty"`
	At     int64  `json:"at"` // unix milliseconds
}

// Boot is what init is given when it starts. Descriptor 3 is a stream socket:
// one KindBoot frame, the JSON of a Boot, with the descriptors of its mounts.
// Descriptor 4 is the listening socket, 5 the exit file (open for writing), 6
// the status pipe: init writes "ok\n" to it once it serves, or an error
// message, and closes it.
type Boot struct {
	Hostname string `json:"hostname"`
	// Root is the detached, read-only mount of the root file system: an index
	// into the frame's descriptors.
	Root int `json:"root"`
	// Mounts go below Root, in this order.
	Mounts []Mount `json:"mounts"`
	// Env is the environment of every process in the sandbox.
	Env map[string]string `json:"env"`
	// UID and GID, inside, of every process but init.
	UID int `json:"uid"`
	GID int `json:"gid"`
	// Bun is the absolute path of Bun in the sandbox.
	Bun string `json:"bun"`
	// MaxFiles is RLIMIT_NOFILE of every process but init.
	MaxFiles uint64 `json:"maxFiles"`
	// Seccomp is the filter of every process but init, an array of struct
	// sock_filter; empty is none.
	Seccomp []byte `json:"seccomp,omitempty"`
	// Landlock confines every process but init, where the kernel has it; nil does
	// not.
	Landlock *Landlock `json:"landlock,omitempty"`
	// Without names defences of the shim's to leave out, for tests of what each is
	// worth.
	Without []string `json:"without,omitempty"`

	// The following are for a sandbox that somebody else has put together around
	// init, such as gVisor: its root is in place, and Mounts are of type "file".

	// Listen is the path to listen on; descriptor 4 is none then.
	Listen string `json:"listen,omitempty"`
	// Units has init keep the cgroups of executions, no more than Pids processes
	// and threads in all.
	Units bool  `json:"units,omitempty"`
	Pids  int64 `json:"pids,omitempty"`
}

// Landlock says what a process may do by path, whatever mounts and permissions
// say besides. It may read and execute everything.
type Landlock struct {
	// Write are the paths below which it may do anything.
	Write []string `json:"write"`
	// Devices are the paths below which it may write to and control what exists.
	Devices []string `json:"devices"`
	// Abstract sockets of others than the process's own kind are out of reach: for
	// a network namespace that is not the sandbox's own.
	Abstract bool `json:"abstract,omitempty"`
}

// What init's binary is, by its argv[0].
const (
	InitName   = "buntime-init"
	LaunchName = "buntime-launch"
)

// LaunchFD is where a launcher tells init's pid, or why there is none. The descriptors
// below it are init's, those above the launcher's.
const LaunchFD = 8

// CoreLimit is RLIMIT_CORE of all processes in bytes. It is too small for a core file,
// and is the one value that also keeps the kernel from starting a handler where
// core_pattern names one (core(5)): that would be the host's, run as the host's
// root, fed with what a program of the session's left behind. The seccomp filter
// refuses to change it.
const CoreLimit = 1

// What Boot.Without may name.
const (
	// WithoutPrivileges leaves code the ids and capabilities of init, and execs
	// that gain some.
	WithoutPrivileges = "privileges"
	// WithoutDescriptors leaves code the descriptors of the shim.
	WithoutDescriptors = "descriptors"
)

// Mount is one mount that init makes.
type Mount struct {
	// Type is "fd" (move the detached mount FD, an index into the frame's
	// descriptors, here), "tmpfs", "dir" (an empty one for the mounts that follow),
	// "proc", "dev" (a minimal /dev with pts, shm
	// and mqueue), "file" (a read-only file with Content), or "fixed" (makes what
	// is mounted there already read-only).
	Type string `json:"type"`
	// Target is absolute, inside the root. It exists in the root or in an
	// earlier mount, or init makes it where it can.
	Target string `json:"target"`
	FD     int    `json:"fd,omitempty"`
	Size   int64  `json:"size,omitempty"` // bytes, of a tmpfs, or of shm in a dev
	Mode   uint32 `json:"mode,omitempty"`
	// UID owns the root of a tmpfs (and GID of the same number).
	UID      int    `json:"uid,omitempty"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	Content  string `json:"content,omitempty"`
	// Masked and Fixed are entries of a proc, without the leading slash: what is
	// covered with nothing, and what is read-only. One that the kernel lacks is
	// passed over.
	Masked []string `json:"masked,omitempty"`
	Fixed  []string `json:"fixed,omitempty"`
}
