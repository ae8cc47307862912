// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/metrics"
	"github.com/buntime/buntime/driver/sandbox"
)

// Why an execution ended, as clients see it.
const (
	reasonExit        = "exit"
	reasonSignal      = "signal"
	reasonTimeout     = "timeout"
	reasonOOM         = "oom"
	reasonKilled      = "killed"
	reasonInterrupted = "interrupted"
)

// exitTimeout is the exit code of an execution that ran out of time, as of
// timeout(1).
const exitTimeout = 124

// Result is what an execution came to.
type Result struct {
	Stdout   string `json:"stdout"`
	Stderr   string `json:"stderr"`
	ExitCode int    `json:"exitCode"`
	// ExecutionTime and CPUTime are in milliseconds.
	ExecutionTime int64 `json:"executionTime"`
	// MemoryUsed is the peak of this execution alone, in bytes.
	MemoryUsed   int64    `json:"memoryUsed"`
	CPUTime      int64    `json:"cpuTime"`
	TimedOut     bool     `json:"timedOut"`
	FilesWritten []string `json:"filesWritten"`
	ExecutionID  string   `json:"executionId"`
	Pid          int      `json:"pid"`
	Background   bool     `json:"background"`
	// Reason is exit, signal, timeout, oom, killed or interrupted.
	Reason    string    `json:"reason,omitempty"`
	Truncated Truncated `json:"truncated"`
	// State is running, background or exited; only where an execution is
	// looked up, not in the answer of execute.
	State string `json:"state,omitempty"`
}

// Truncated says how many bytes were cut from the middle of each stream.
type Truncated struct {
	Stdout int64 `json:"stdout"`
	Stderr int64 `json:"stderr"`
}

// label is what init keeps for us with an execution, so that a restarted
// plugin knows what it finds.
type label struct {
	ExecutionID  string    `json:"executionId"`
	Request      string    `json:"request,omitempty"` // the id of the one it came with
	Command      string    `json:"command"`
	Code         bool      `json:"code"`
	StartedAt    time.Time `json:"startedAt"`
	Deadline     time.Time `json:"deadline"`
	FilesWritten []string  `json:"filesWritten,omitempty"`
	Background   bool      `json:"background,omitempty"`
}

// execution is one run of code or a command. It is over for its caller when
// answered is closed and for good when ended is.
type execution struct {
	label
	unit    string // the name that init and the cgroup know it by
	group   sandbox.Unit
	output  *output
	journal *journal
	// cpuBefore is what the runner's start took, which is nobody's.
	cpuBefore time.Duration

	// answered is closed at the first of: exit, background, time-out, loss.
	answered chan struct{}
	// delivered is closed, after answered, once the caller has the answer, or is gone.
	delivered chan struct{}
	deliver   func()
	// recorded is closed, after that, once the answer is in the history.
	recorded chan struct{}
	// ended is closed when the first process is gone and the result final.
	ended chan struct{}
	// writes tells, until the answer, what is written meanwhile.
	writes  *writes
	written *written

	// hostKills counts what the host's kernel killed in the session for its
	// memory, where it cannot tell whose it was; nil where it can. killsBefore is
	// the number when this began.
	hostKills   func() uint64
	killsBefore uint64

	// released is true once group is gone. The session's lock guards it.
	released bool

	mu     sync.Mutex
	pid    int
	why    string // set by who ends it from outside: timeout, killed, …
	result Result
	state  string
	first  *Result            // what the caller of one that stays was told
	stop   context.CancelFunc // ends what waits for it to listen
	timer  *time.Timer
}

// newRecovered is an execution that an earlier process of the plugin began.
func newRecovered(l label, x wire.Execution, g sandbox.Unit, limit int64) *execution {
	e := newExecution(l, x.ID, g, limit)
	e.pid = x.Pid
	return e
}

const (
	stateRunning    = "running"
	stateBackground = "background"
	stateExited     = "exited"
)

func newExecution(l label, unit string, g sandbox.Unit, limit int64) *execution {
	delivered := make(chan struct{})
	return &execution{
		label: l, unit: unit, group: g,
		output:    newOutput(limit),
		answered:  make(chan struct{}),
		delivered: delivered,
		deliver:   sync.OnceFunc(func() { close(delivered) }),
		recorded:  make(chan struct{}),
		ended:     make(chan struct{}),
		state:     stateRunning,
	}
}

// begun notes the first process's pid, as inside the sandbox.
func (e *execution) begun(pid int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pid = pid
}

// endedBy notes who ends the execution, before it is killed. The first word
// counts. It is false when the execution was over already.
func (e *execution) endedBy(why string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state == stateExited {
		return false
	}
	if e.why == "" {
		e.why = why
	}
	return true
}

// endedAs says whether somebody has ended the execution for a reason.
func (e *execution) endedAs(why string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.why == why
}

// background answers the caller: the code listens and stays.
func (e *execution) background() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state != stateRunning || e.why != "" {
		return
	}
	e.state = stateBackground
	e.Background = true
	if e.timer != nil {
		e.timer.Stop()
	}
	e.collect()
	e.result = e.measure(0, 0)
	e.count("background")
	close(e.answered)
}

// finish makes the result final. code is 128+signal for a death by signal.
func (e *execution) finish(code, signal int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state == stateExited {
		return
	}
	if e.timer != nil {
		e.timer.Stop()
	}
	if e.stop != nil {
		e.stop()
	}
	e.collect()
	wasBackground := e.state == stateBackground
	e.state = stateExited
	e.result = e.measure(code, signal)
	if !wasBackground {
		e.count(e.result.Reason)
		close(e.answered)
	}
}

// count counts an execution that is answered. Called with mu held.
func (e *execution) count(reason string) {
	metrics.Executed(e.Code, reason, time.Duration(e.result.CPUTime)*time.Millisecond)
}

// collect adds the files that were written to those of the request. Called with
// mu held.
func (e *execution) collect() {
	if e.written == nil {
		return
	}
	e.FilesWritten = append(e.FilesWritten, e.writes.end(e.written)...)
	slices.Sort(e.FilesWritten)
	e.FilesWritten = slices.Compact(e.FilesWritten)
	e.written = nil
}

// measure takes the figures of the execution's own cgroup. Called with mu held.
func (e *execution) measure(code, signal int) Result {
	r := Result{
		ExitCode:      code,
		ExecutionTime: milliseconds(time.Since(e.StartedAt)),
		ExecutionID:   e.ExecutionID,
		Pid:           e.pid,
		Background:    e.Background,
		FilesWritten:  e.FilesWritten,
		Reason:        reasonExit,
	}
	var oomKills uint64
	if st, err := e.group.Stats(); err == nil {
		r.MemoryUsed = int64(st.MemoryPeak)
		r.CPUTime = milliseconds(st.CPU - e.cpuBefore)
		oomKills = st.OOMKills
	}
	switch {
	case e.state == stateBackground:
		r.Reason = ""
	case e.why == reasonTimeout:
		r.Reason, r.ExitCode, r.TimedOut = reasonTimeout, exitTimeout, true
	case e.why != "":
		r.Reason = e.why
	case oomKills > 0 && code != 0:
		r.Reason = reasonOOM
	case signal == int(unix.SIGKILL) && e.hostKills != nil && e.hostKills() > e.killsBefore:
		r.Reason = reasonOOM
	case signal != 0:
		r.Reason = reasonSignal
	}
	return r
}

// snapshot returns the result so far, with the output.
func (e *execution) snapshot() Result {
	e.mu.Lock()
	r, state := e.result, e.state
	if state == stateRunning {
		r = e.measure(0, 0)
		r.Reason = ""
	}
	e.mu.Unlock()
	if r.FilesWritten == nil {
		r.FilesWritten = []string{}
	}
	o := e.output
	o.mu.Lock()
	r.Stdout, r.Truncated.Stdout = o.stdout.text()
	r.Stderr, r.Truncated.Stderr = o.stderr.text()
	o.mu.Unlock()
	return r
}

// told is what the execution's caller is told, once it is answered. A server that
// stays goes on printing, so it is kept what that was.
func (e *execution) told() Result {
	r := e.snapshot()
	if !r.Background {
		return r
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.first == nil {
		e.first = &r
	}
	return *e.first
}

// memory is how many bytes of output are held.
func (e *execution) memory() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.output.memory()
	if e.first != nil {
		n += int64(len(e.first.Stdout) + len(e.first.Stderr))
	}
	return n
}

// lookup is snapshot with the state, for who asks for an execution by its id.
func (e *execution) lookup() Result {
	r := e.snapshot()
	e.mu.Lock()
	r.State = e.state
	e.mu.Unlock()
	return r
}

// firstPid is the pid, inside, of the process that the execution began with.
func (e *execution) firstPid() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pid
}

// title is what a list of processes calls the first process.
func (e *execution) title() string {
	if e.Code {
		return "bun (code of " + e.ExecutionID + ")"
	}
	return e.Command
}

// running tells whether the first process lives.
func (e *execution) running() bool {
	select {
	case <-e.ended:
		return false
	default:
		return true
	}
}

// event takes what init says of the execution. It is true with the last word.
func (e *execution) event(ev wire.Event) bool {
	switch ev.Event {
	case wire.EventStarted:
		e.begun(ev.Pid)
	case wire.EventExiting:
		e.finish(ev.Code, 0)
	case wire.EventExited:
		e.finish(ev.Code, ev.Signal)
		return true
	}
	return false
}

// milliseconds rounds to whole ones.
func milliseconds(d time.Duration) int64 {
	return d.Round(time.Millisecond).Milliseconds()
}
