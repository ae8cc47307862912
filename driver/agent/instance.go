// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/metrics"
	"github.com/buntime/buntime/driver/relay"
	"github.com/buntime/buntime/driver/sandbox"
)

// mainUnit names the main process of an ordinary job.
const mainUnit = "main"

// instance implements driver.Instance.
type instance struct {
	agent   *Agent
	task    *driver.Task
	box     *sandbox.Sandbox
	guest   guestHost
	session *Session // nil for an ordinary job
	ports   []*forward
	// expiry ends a session at its time, also one that is not served.
	expiry *time.Timer
	slot   slot

	purpose atomic.Pointer[string] // why the sandbox is ended, if it is on purpose
	tally   sync.Once              // of Wait
	sleepy  atomic.Bool            // sleepBySelf runs
	serving sync.Mutex             // held while it is reopened
	closing sync.Once
	closed  chan struct{}
}

func (a *Agent) newInstance(task *driver.Task, box *sandbox.Sandbox) *instance {
	i := &instance{agent: a, task: task, box: box, guest: guestHost{box}, closed: make(chan struct{})}
	if s := task.Session; s != nil {
		i.slot.init(s, box)
		if end := i.slot.end(); !end.IsZero() {
			i.expiry = time.AfterFunc(time.Until(end), i.expire)
		}
	}
	a.mu.Lock()
	a.instances[i] = struct{}{}
	a.mu.Unlock()
	return i
}

// open begins to serve the sandbox: a session's listeners, or a job's ports.
// Of a recovered one, what runs in it is known before anybody can ask.
func (i *instance) open(ctx context.Context, doors doors, recovered bool) error {
	if i.task.Session == nil {
		for _, p := range i.task.Ports {
			f, err := listenForward(ctx, i.box, p, i.agent.log)
			if err != nil {
				return err
			}
			i.ports = append(i.ports, f)
		}
		return nil
	}
	var ended bool
	var idle bool
	if recovered {
		var err error
		if ended, idle, err = i.meet(ctx); err != nil || ended {
			doors.close()
			return err
		}
	}
	s, err := i.agent.newSession(i.task, i.box)
	if err != nil {
		doors.close()
		return err
	}
	i.session = s
	if recovered {
		if !idle {
			s.life.last = time.Now() // nobody noted when
		}
		// What stands still can neither answer nor die. It comes to rest again by
		// itself, at its time.
		err := i.box.Group().Thaw()
		if err == nil {
			err = s.recover(ctx)
		}
		if err == nil {
			var expires time.Time
			if expires, err = i.recordedEnd(ctx); err == nil { // since the task started
				i.setEnd(expires)
			}
		}
		if err != nil {
			doors.close()
			return err
		}
	} else if s.Epoch > 1 {
		s.removeEntries()
		s.keeper.woken()
	}
	s.life.sleepy = func() { s.goDo(func() { i.sleepBySelf(s) }) }
	if !i.slot.vacant() {
		i.live(s, recovered || s.Epoch > 1)
	}
	s.runners.fill(1) // the first execution waits for it; more would only slow it down
	config := i.agent.config
	s.serve(doors.api, s.newServer(i.api(s, tokensOf(config, s, claim.Token))), apiConnections, i.agent.apiTLS)
	visits := tokensOf(config, s, claim.PreviewToken)
	previews := s.newServer(i.taken(s.preview(visits, config.PreviewAccess)))
	s.serve(doors.preview, relay.NewServer(previews, limits, i.relayPolicy(s, visits, config.PreviewAccess)), previewConnections, i.agent.previewTLS)
	return nil
}

// live lets time count for a session: until when it is idle, and for checkpoints. Of one
// that has just come to be, nothing can be stored yet, and nobody is asked.
func (i *instance) live(s *Session, before bool) {
	s.life.begin()
	s.goDo(func() {
		if before {
			s.keeper.begin(s.ctx)
		}
		s.keeper.run(s.ctx, func() { go i.letGo() })
	})
}

// Why a recovered sandbox is ended at once.
const (
	slotOver  = "slot of an earlier process"
	notedOver = "noted as over"
)

// meet looks what has become of a recovered session while nobody served it: whether
// an earlier process of the plugin, or a front-end, has noted that this life of it is
// over. Then it ends: whatever came to it now would be lost. So does a slot: it was
// started with settings that this process need not have any more.
func (i *instance) meet(ctx context.Context) (over, idle bool, err error) {
	if i.slot.vacant() {
		if vacant, err := i.meetSlot(ctx); err != nil {
			return false, false, err
		} else if vacant {
			return true, false, i.end(ctx, slotOver)
		}
	}
	rest, _, err := i.task.Rests.Load(ctx, i.task.Session.Epoch)
	if err != nil {
		return false, false, fmt.Errorf("look whether the session is still this node's: %w", err)
	}
	if rest.Over() {
		return true, false, i.end(ctx, notedOver)
	}
	idle, err = i.box.Group().Frozen()
	return false, idle, err
}

// reopen begins to serve a recovered sandbox.
func (i *instance) reopen(ctx context.Context) error {
	i.serving.Lock()
	defer i.serving.Unlock()
	select {
	case <-i.closed:
		return nil
	default:
	}
	doors, err := openDoors(ctx, i.task)
	if err != nil {
		return err
	}
	err = i.open(ctx, doors, true)
	if err != nil {
		i.unserve(err)
	}
	return err
}

// reopenPause is between two tries to serve a recovered sandbox.
const reopenPause = time.Second

// keepReopening tries until it works, or there is nothing to serve any more.
func (i *instance) keepReopening() {
	for {
		select {
		case <-time.After(reopenPause):
		case <-i.closed:
			return
		case <-i.box.Done():
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		err := i.reopen(ctx)
		cancel()
		if err == nil {
			return
		}
		i.agent.log.Debug("could not serve a sandbox again yet", "task", i.task.ID, "error", err)
	}
}

// unserve closes what open opened.
func (i *instance) unserve(cause error) {
	for _, f := range i.ports {
		f.close()
	}
	i.ports = nil
	if i.session != nil {
		i.session.close(cause)
		i.session = nil
	}
}

// let ends what serves the sandbox in this process.
func (i *instance) let(cause error) {
	i.closing.Do(func() {
		close(i.closed)
		if i.expiry != nil {
			i.expiry.Stop()
		}
		i.serving.Lock()
		defer i.serving.Unlock()
		for _, f := range i.ports {
			f.close()
		}
		if i.session != nil {
			i.session.close(cause)
		}
		i.agent.mu.Lock()
		delete(i.agent.instances, i)
		i.agent.mu.Unlock()
	})
}

// startMain starts an ordinary job's program.
func (i *instance) startMain(ctx context.Context) error {
	var files []*os.File
	defer func() { closeFiles(files) }()
	for _, name := range []string{i.task.Stdout, i.task.Stderr} {
		// Nomad's log collector holds the reading end open. Non-blocking, so
		// that a collector that died is an error and not a hang; the process
		// gets an ordinary blocking pipe.
		f, err := os.OpenFile(name, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open output for the task: %w", err)
		}
		files = append(files, f)
		if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
			return fmt.Errorf("open output for the task: %w", err)
		}
	}
	g, err := i.box.Units().New(mainUnit)
	if err != nil {
		return fmt.Errorf("create cgroup of the task: %w", err)
	}
	join, err := g.JoinFiles()
	if err != nil {
		return err
	}
	files = append(files, join...)
	ev, err := i.guest.ask(ctx, wire.Request{Op: wire.OpMain, ID: mainUnit, Argv: i.task.Argv, Dir: i.task.Dir}, files)
	if err != nil {
		return fmt.Errorf("start the task: %w", err)
	}
	if ev.Event != wire.EventStarted {
		return fmt.Errorf("start the task: %s", ev.Error)
	}
	return nil
}

// State implements driver.Instance.
func (i *instance) State() []byte { return sandbox.MarshalState(i.box.State()) }

// Wait implements driver.Instance.
func (i *instance) Wait(ctx context.Context) (driver.Exit, error) {
	select {
	case <-i.box.Done():
	case <-ctx.Done():
		return driver.Exit{}, context.Cause(ctx)
	}
	if i.slot.close() {
		i.vacate()
	}
	// Once Nomad knows of the end, the ports may be another allocation's.
	i.let(errEnded)
	e := i.box.Exit()
	out := driver.Exit{Code: e.Code, Signal: e.Signal, At: time.UnixMilli(e.At)}
	if e.At == 0 {
		out.At = time.Time{}
	}
	if e.Error != "" {
		out.Err = errors.New(e.Error)
	}
	if g := i.box.Group(); g != nil && e.Signal == int(unix.SIGKILL) {
		if st, err := g.Stats(); err == nil {
			out.OOMKilled = st.OOMKills > 0
		}
	}
	i.tally.Do(func() {
		purpose := ""
		if p := i.purpose.Load(); p != nil {
			purpose = *p
		}
		metrics.Ends(i.ends(out, purpose)).Inc()
	})
	return out, nil
}

// Signal implements driver.Instance.
func (i *instance) Signal(sig unix.Signal) error {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	if i.task.Session == nil {
		return i.signalMain(ctx, sig)
	}
	if sig == unix.SIGKILL {
		return i.box.Kill()
	}
	session, leave, err := i.use("signal")
	if err != nil {
		return fmt.Errorf("signal the session: %w", err)
	}
	defer leave()
	var errs []error
	for _, e := range session.live() {
		ev, err := i.guest.ask(ctx, wire.Request{Op: wire.OpSignal, Pid: -e.firstPid(), Signal: int(sig)}, nil)
		if err == nil && ev.Event != wire.EventSignalled && e.running() {
			err = errors.New(ev.Error)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// use keeps the instance's session awake until leave is called.
func (i *instance) use(why string) (s *Session, leave func(), err error) {
	i.serving.Lock()
	s = i.session
	i.serving.Unlock()
	if s == nil {
		return nil, nil, errors.New("it is not served yet")
	}
	leave, err = s.life.use(why)
	return s, leave, err
}

// signalMain sends a signal to an ordinary job's program.
func (i *instance) signalMain(ctx context.Context, sig unix.Signal) error {
	list, err := i.guest.ask(ctx, wire.Request{Op: wire.OpList}, nil)
	if err != nil {
		return err
	}
	for _, e := range list.Executions {
		if e.ID != mainUnit {
			continue
		}
		ev, err := i.guest.ask(ctx, wire.Request{Op: wire.OpSignal, Pid: e.Pid, Signal: int(sig)}, nil)
		if err != nil {
			return err
		}
		if ev.Event != wire.EventSignalled {
			return fmt.Errorf("signal the task: %s", ev.Error)
		}
		return nil
	}
	return errors.New("signal the task: its program has ended")
}

// Stop implements driver.Instance.
func (i *instance) Stop(ctx context.Context, sig unix.Signal, timeout time.Duration) error {
	if i.task.Session != nil {
		return i.stopSession(ctx, timeout)
	}
	soft, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// A program that cannot be told is ended all the same.
	if err := i.signalMain(soft, sig); err == nil {
		select {
		case <-i.box.Done():
			return nil
		case <-soft.Done():
		}
	}
	if err := i.box.Kill(); err != nil {
		return err
	}
	select {
	case <-i.box.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the sandbox to end: %w", context.Cause(ctx))
	}
}

// end is a session's end on purpose, which for Nomad is success.
func (i *instance) end(ctx context.Context, why string) error {
	i.purpose.CompareAndSwap(nil, &why)
	i.agent.log.Info("session ends on this node", "session", i.task.Session.ID, "because", why)
	if err := i.box.End(); err != nil {
		return err
	}
	select {
	case <-i.box.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the sandbox to end: %w", context.Cause(ctx))
	}
}

// endBySelf is end where nobody waits for it.
func (i *instance) endBySelf(why string) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), killTimeout, errors.New("the sandbox outlived SIGKILL"))
	defer cancel()
	if err := i.end(ctx, why); err != nil {
		i.agent.log.Error("could not end the sandbox of a session", "session", i.task.Session.ID, "because", why, "error", err)
	}
}

// Destroy implements driver.Instance.
func (i *instance) Destroy(ctx context.Context) error {
	i.let(errEnded)
	return i.box.Destroy(ctx)
}

// Exec implements driver.Instance.
func (i *instance) Exec(ctx context.Context, opts driver.ExecOptions) (int, error) {
	if i.task.Session != nil {
		_, leave, err := i.use("alloc exec")
		if err != nil {
			return 0, fmt.Errorf("execute in the session: %w", err)
		}
		defer leave()
	}
	unit := newUnit(execUnit)
	g, err := i.box.Units().New(unit)
	if err != nil {
		return 0, fmt.Errorf("create cgroup of a command: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
		defer cancel()
		if err := g.Kill(ctx); err == nil {
			err = g.Remove(ctx)
			if err != nil {
				i.agent.log.Warn("could not remove the cgroup of a command", "error", err)
			}
		}
	}()
	return i.guest.exec(ctx, unit, g, opts, i.execDir())
}

// execDir is where a command starts: where the task's own program did.
func (i *instance) execDir() string {
	if i.task.Session != nil {
		return workspaceDir
	}
	return i.task.Dir
}

// Stats implements driver.Instance.
func (i *instance) Stats(context.Context) (driver.Usage, error) {
	st, err := i.box.Group().Stats()
	if err != nil {
		return driver.Usage{}, fmt.Errorf("read cgroup: %w", err)
	}
	rss, cache := st.MemoryAnon, st.MemoryFile
	if i.box.Isolation() == sandbox.IsolationGVisor { // the programs' memory is a file to the host
		rss, cache = rss+st.MemoryShmem, cache-min(cache, st.MemoryShmem)
	}
	return driver.Usage{
		RSS: rss, Cache: cache, Memory: st.MemoryUsage, MemoryMax: st.MemoryPeak,
		CPUUser: st.CPUUser, CPUSystem: st.CPUSystem,
		ThrottledPeriods: st.ThrottledPeriods, Throttled: st.Throttled,
	}, nil
}

// hostLabel is a session's id as a host name.
func hostLabel(session string) string { return strings.ReplaceAll(session, "_", "-") }
