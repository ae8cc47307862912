// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/client/lib/cpustats"
	"github.com/hashicorp/nomad/drivers/shared/eventer"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"golang.org/x/sys/unix"
)

// How long a Runtime has for what Nomad waits for.
const (
	// A cold start takes some 20 ms; a minute is for a node under water.
	startTimeout = time.Minute
	// Nomad recovers one task after another before it does anything else.
	recoverTimeout = 10 * time.Second
	destroyTimeout = 30 * time.Second
	// stopMargin is on top of the job's kill timeout, for SIGKILL to work on
	// many processes.
	stopMargin = 30 * time.Second
)

// Driver implements Nomad's driver interface over a Runtime.
type Driver struct {
	ctx    context.Context
	cancel context.CancelFunc
	logger hclog.Logger
	open   OpenRuntime
	events *eventer.Eventer
	tasks  taskStore
	bun    bunVersion
	runsc  runscVersion
	agents attendance

	straying sync.Once // of endStrays
	// strayAfter and strayEvery are constants but for tests.
	strayAfter, strayEvery time.Duration

	mu      sync.Mutex // of what follows
	config  *Config    // nil before SetConfig
	compute cpustats.Compute
	claims  claimer
	runtime Runtime // nil until it is needed
	// starting has, by allocation and task, what is closed when a start is over.
	starting map[string]chan struct{}
}

var (
	_ drivers.DriverPlugin               = (*Driver)(nil)
	_ drivers.ExecTaskStreamingRawDriver = (*Driver)(nil)
)

// New returns a driver that makes its sandboxes with what open returns. Nomad
// starts the plugin more than once just to ask what it is, so nothing happens
// before SetConfig. ctx ends with the plugin; call Close then.
func New(ctx context.Context, logger hclog.Logger, open OpenRuntime) *Driver {
	logger = logger.Named(Name)
	ctx, cancel := context.WithCancel(ctx)
	return &Driver{
		ctx:    ctx,
		cancel: cancel,
		logger: logger,
		open:   open,
		events: eventer.NewEventer(ctx, logger),

		starting:   make(map[string]chan struct{}),
		strayAfter: strayAfter, strayEvery: strayEvery,
	}
}

// Close ends what the driver does in this process. Sandboxes live on.
func (d *Driver) Close() error {
	d.cancel()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.runtime == nil {
		return nil
	}
	err := d.runtime.Close()
	d.runtime = nil // and none is opened any more
	if err != nil {
		return fmt.Errorf("close runtime: %w", err)
	}
	return nil
}

// Needed says whether an agent is there, or anything that the next one wants to find again.
func (d *Driver) Needed() bool { return d.tasks.any() || d.agents.any() }

// PluginInfo says what this plugin is.
func (d *Driver) PluginInfo() (*base.PluginInfoResponse, error) {
	return pluginInfo, nil
}

// ConfigSchema is the form of the plugin's configuration.
func (d *Driver) ConfigSchema() (*hclspec.Spec, error) {
	return pluginConfigSpec, nil
}

// SetConfig takes the plugin's configuration and, from an agent that sends
// its own, what this machine can compute. It opens nothing: a node where
// something is missing shall say so in its health, not fail to load the plugin.
func (d *Driver) SetConfig(c *base.Config) error {
	config, err := parseConfig(c.PluginConfig)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.runtime != nil && !reflect.DeepEqual(config, d.config) {
		return errors.New("plugin config changed while the plugin runs: restart the plugin")
	}
	d.config = config
	d.compute = c.AgentConfig.Compute() // of a nil AgentConfig: zero
	return nil
}

// TaskConfigSchema is the form of a task's `config` block.
func (d *Driver) TaskConfigSchema() (*hclspec.Spec, error) {
	return taskConfigSpec, nil
}

// Capabilities is what the driver can do.
func (d *Driver) Capabilities() (*drivers.Capabilities, error) {
	return capabilities, nil
}

// settings returns the configuration.
func (d *Driver) settings() (*Config, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.config == nil {
		return nil, errors.New("plugin has no configuration yet")
	}
	return d.config, nil
}

// runtimeOf opens the Runtime, or returns the one that is open.
func (d *Driver) runtimeOf() (Runtime, error) {
	config, err := d.settings()
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.runtime == nil {
		if err := d.ctx.Err(); err != nil {
			return nil, fmt.Errorf("open runtime: %w", err)
		}
		if d.runtime, err = d.open(d.ctx, config, d.logger); err != nil {
			d.runtime = nil
			return nil, fmt.Errorf("open runtime: %w", err)
		}
	}
	return d.runtime, nil
}

// claimsOf returns the claimer, if this node is set up for sessions.
func (d *Driver) claimsOf() (claimer, error) {
	config, err := d.settings()
	if err != nil {
		return nil, err
	}
	if len(config.NodeSecret) == 0 {
		return nil, fmt.Errorf("this node serves no sessions: its plugin config has no node_secret and %s is not set", secretEnv)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.claims == nil {
		consul := config.Consul
		consul.Fail = func(err error) { d.logger.Warn("goes on with what it had for Consul", "error", err) }
		if d.claims, err = newConsulClaims(consul); err != nil {
			d.claims = nil
			return nil, err
		}
	}
	return d.claims, nil
}

// StartTask starts a task. Errors are final for the task's restart policy but
// where they say that they are recoverable.
func (d *Driver) StartTask(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	handle, err := d.start(cfg)
	if err != nil {
		// The plugin protocol looks at the outermost error only.
		var recoverable structs.Recoverable
		again := errors.As(err, &recoverable) && recoverable.IsRecoverable()
		return nil, nil, structs.NewRecoverableError(err, again)
	}
	return handle, nil, nil
}

func (d *Driver) start(cfg *drivers.TaskConfig) (*drivers.TaskHandle, error) {
	wanted := time.Now()
	if _, ok := d.tasks.get(cfg.ID); ok {
		return nil, fmt.Errorf("start task %s: it is started already", cfg.ID)
	}
	config, err := d.settings()
	if err != nil {
		return nil, err
	}
	tc, err := parseTaskConfig(cfg, config.Defaults)
	if err != nil {
		return nil, err
	}
	task := newTask(cfg, tc, config)
	if err := refuse(cfg, task); err != nil {
		return nil, err
	}
	if tc.Isolation == IsolationGVisor {
		if _, err := d.runsc.read(d.ctx, config); err != nil {
			return nil, fmt.Errorf("isolation %q: %w", IsolationGVisor, err)
		}
	}
	if err := prepare(cfg, tc); err != nil {
		return nil, err
	}
	runtime, err := d.runtimeOf()
	if err != nil {
		return nil, err
	}
	done, err := d.alone(cfg)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeoutCause(d.ctx, startTimeout,
		fmt.Errorf("sandbox not started within %s", startTimeout))
	defer cancel()
	if task.Session != nil {
		claims, err := d.claimsOf()
		if err != nil {
			return nil, err
		}
		task.Claim = func(ctx context.Context) error { return claimSession(ctx, claims, task) }
		task.Rests = claims.Rests(task.Session.ID)
	}
	began := time.Now()
	instance, err := runtime.Start(ctx, task)
	if err != nil {
		return nil, fmt.Errorf("start sandbox: %w", err)
	}
	handle := drivers.NewTaskHandle(handleVersion)
	handle.Config = cfg
	handle.State = drivers.TaskStateRunning
	state := taskState{StartedAt: began, Config: *tc, Sandbox: instance.State()}
	state.Config.Code = ""
	if err := handle.SetDriverState(&state); err != nil {
		err = fmt.Errorf("encode task state: %w", err)
		return nil, errors.Join(err, d.destroy(instance))
	}
	h := newTaskHandle(cfg, task.Session, state.StartedAt, instance)
	h.wanted = wanted
	d.follow(h)
	d.emit(cfg, fmt.Sprintf("Sandbox ready in %d ms", time.Since(began).Milliseconds()))
	return handle, nil
}

// follow makes a task known and watches its end.
func (d *Driver) follow(h *taskHandle) {
	d.straying.Do(func() { go d.endStrays() })
	d.tasks.set(h)
	go h.run(d.ctx)
}

// WaitTask delivers a task's result once, or nothing when ctx ends first.
func (d *Driver) WaitTask(ctx context.Context, taskID string) (<-chan *drivers.ExitResult, error) {
	h, ok := d.task(taskID)
	if !ok {
		return nil, drivers.ErrTaskNotFound
	}
	results := make(chan *drivers.ExitResult, 1)
	go func() {
		defer close(results)
		select {
		case <-h.done:
			results <- h.result.Copy()
		case <-ctx.Done():
		}
	}()
	return results, nil
}

// StopTask ends a task and returns once it has ended. An unknown task is one
// that has ended: an error would only have Nomad retry for minutes.
func (d *Driver) StopTask(taskID string, timeout time.Duration, signal string) error {
	h, ok := d.task(taskID)
	if !ok || !h.running() {
		return nil
	}
	sig := unix.SIGINT // as of Nomad's exec driver
	if signal != "" {
		parsed, err := parseSignal(signal)
		if err != nil {
			d.logger.Warn("task has an unknown kill_signal, using SIGINT", "task_id", taskID, "signal", signal)
		} else {
			sig = parsed
		}
	}
	_, err, _ := h.stopping.Do("", func() (any, error) {
		limit := timeout + stopMargin
		ctx, cancel := context.WithTimeoutCause(d.ctx, limit, fmt.Errorf("sandbox still runs after %s", limit))
		defer cancel()
		if err := h.instance.Stop(ctx, sig, timeout); err != nil {
			return nil, fmt.Errorf("stop sandbox: %w", err)
		}
		select {
		case <-h.done:
			return nil, nil
		case <-ctx.Done():
			return nil, fmt.Errorf("stop sandbox: %w", context.Cause(ctx))
		}
	})
	return err
}

// DestroyTask removes a task and its sandbox. What a failed removal leaves
// belongs to no task any more; Nomad does not ask again.
func (d *Driver) DestroyTask(taskID string, force bool) error {
	h, ok := d.task(taskID)
	if !ok {
		return nil
	}
	if h.running() && !force {
		return fmt.Errorf("destroy task %s: it still runs", taskID)
	}
	d.tasks.delete(taskID)
	if h.instance == nil {
		return nil
	}
	return d.destroy(h.instance)
}

func (d *Driver) destroy(instance Instance) error {
	ctx, cancel := context.WithTimeoutCause(d.ctx, destroyTimeout,
		fmt.Errorf("sandbox not removed within %s", destroyTimeout))
	defer cancel()
	if err := instance.Destroy(ctx); err != nil {
		return fmt.Errorf("destroy sandbox: %w", err)
	}
	return nil
}

// InspectTask describes a task.
func (d *Driver) InspectTask(taskID string) (*drivers.TaskStatus, error) {
	h, ok := d.task(taskID)
	if !ok {
		return nil, drivers.ErrTaskNotFound
	}
	return h.status(), nil
}

// TaskEvents delivers what the driver tells about its tasks.
func (d *Driver) TaskEvents(ctx context.Context) (<-chan *drivers.TaskEvent, error) {
	return d.events.TaskEvents(ctx)
}

// emit tells Nomad something about a task, for `nomad alloc status`. It does
// not wait for whoever listens.
func (d *Driver) emit(cfg *drivers.TaskConfig, message string) {
	event := &drivers.TaskEvent{
		TaskID:    cfg.ID,
		TaskName:  cfg.Name,
		AllocID:   cfg.AllocID,
		Timestamp: time.Now(),
		Message:   message,
	}
	go func() {
		if err := d.events.EmitEvent(event); err != nil {
			d.logger.Debug("task event dropped", "task_id", event.TaskID, "error", err)
		}
	}()
}

// SignalTask sends a signal to a task.
func (d *Driver) SignalTask(taskID, signal string) error {
	h, err := d.runningTask(taskID)
	if err != nil {
		return err
	}
	sig, err := parseSignal(signal)
	if err != nil {
		return err
	}
	if err := h.instance.Signal(sig); err != nil {
		return fmt.Errorf("signal task: %w", err)
	}
	return nil
}

// runningTask returns a task that has a live sandbox.
func (d *Driver) runningTask(taskID string) (*taskHandle, error) {
	h, ok := d.task(taskID)
	switch {
	case !ok:
		return nil, drivers.ErrTaskNotFound
	case !h.running():
		return nil, errNotRunning
	}
	return h, nil
}

// parseSignal knows signals by name ("SIGHUP"). Nomad's exec driver takes an
// unknown name for SIGINT; a mistyped reload should not end a task.
func parseSignal(name string) (unix.Signal, error) {
	sig := unix.SignalNum(strings.ToUpper(name))
	if sig == 0 {
		return 0, fmt.Errorf("unknown signal %q", name)
	}
	return sig, nil
}
