// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	nomad "github.com/hashicorp/nomad/api"
	"golang.org/x/sys/unix"
)

// Client is a Nomad client with our plugin: one node of the cluster, as if it had
// a machine of its own.
type Client struct {
	// Name is the node's in Nomad.
	Name string
	// Agent is Nomad's. Plugin and tasks go on without it.
	Agent Part
	// MetricsURL is where its plugin has its metrics, for who has Stack.MetricsToken.
	MetricsURL string

	stack  *Stack
	number int
	url    string // of the agent
	http   int    // its port
	rpc    int
	serf   int
	watch  int // that of the metrics
	pool   netip.Prefix
	allocs map[string]bool // ids of all its allocations that were seen
}

// newClient makes the client of a number.
func (s *Stack) newClient(n int) (*Client, error) {
	c := &Client{
		Name: "client" + suffix(n), Agent: Part{name: "nomad-client" + suffix(n), end: syscall.SIGINT},
		stack: s, number: n, pool: s.block.pools(s.options.Clients)[n], allocs: map[string]bool{},
	}
	for _, port := range []*int{&c.http, &c.rpc, &c.serf, &c.watch} {
		var err error
		if *port, err = s.block.port(); err != nil {
			return nil, err
		}
	}
	c.url, c.MetricsURL = s.scheme()+loopback(c.http), "http://"+loopback(c.watch)
	path, err := c.write(s.tools.runsc)
	if err != nil {
		return nil, err
	}
	c.Agent.start = func(context.Context) (*process, error) {
		return s.spawn(c.Agent.name, []string{c.mark()}, s.tools.nomad, "agent", "-config", path)
	}
	c.Agent.ready = c.ready
	return c, nil
}

// suffix tells the parts of a kind apart. The first has none.
func suffix(n int) string {
	if n == 0 {
		return ""
	}
	return "-" + strconv.Itoa(n)
}

// mark is the variable that all processes of the client have in their environment.
func (c *Client) mark() string { return clientMarker + "=" + filepath.Join(c.stack.Dir, c.Name) }

// StateDir is the plugin's folder for what outlives it.
func (c *Client) StateDir() string { return filepath.Join(c.stack.Dir, "driver"+suffix(c.number)) }

// write writes the client's configuration, with runsc as the plugin is to know it.
func (c *Client) write(runsc string) (path string, err error) {
	s := c.stack
	agent := s.agent(c.Name)
	agent.HTTP, agent.RPC, agent.Serf = c.http, c.rpc, c.serf
	agent.ServerRPC = s.ports.serverRPC
	agent.MinDynamicPort, agent.MaxDynamicPort = s.block.dynamicPorts(c.number, s.options.Clients)
	agent.PluginDir, agent.Rootfs, agent.Init = s.tools.plugins, s.tools.rootfs, s.tools.init
	agent.StateDir = c.StateDir()
	agent.Metrics, agent.MetricsToken = loopback(c.watch), s.MetricsToken
	agent.NodeSecret, agent.OldNodeSecret = s.NodeSecret, s.OldNodeSecret
	agent.Pool, agent.Runsc = c.pool, runsc
	agent.FirstID, agent.LastID = s.block.ids(c.number, s.options.Clients)
	agent.Store = s.store()
	agent.IdleAfter = cmp.Or(s.options.IdleAfter, 5*time.Minute)
	agent.SleepAfter = cmp.Or(s.options.SleepAfter, 30*time.Minute)
	agent.CheckpointEvery = cmp.Or(s.options.CheckpointEvery, time.Minute)
	agent.CNI, agent.Bridge, agent.BridgeSubnet = s.tools.cni, s.block.bridge(), s.block.bridgeSubnet()
	if s.options.SmallChroot {
		if agent.Chroot, err = smallChroot(s.tools.bun); err != nil {
			return "", err
		}
	}
	return s.writeAgent(agent)
}

// smallChroot is a shell and the libraries that it and Bun need, which ldd prints
// with their paths: where they are to be, and the files, because Nomad makes a hard
// link of a symbolic one.
func smallChroot(bun string) (map[string]string, error) {
	const shell = "/bin/sh"
	out, err := exec.Command("ldd", shell, bun).Output()
	if err != nil {
		return nil, fmt.Errorf("find the libraries of Bun: %w", err)
	}
	files := map[string]string{}
	for _, path := range append(strings.Fields(string(out)), shell) {
		if !strings.HasPrefix(path, "/") || strings.HasSuffix(path, ":") {
			continue
		}
		if files[path], err = filepath.EvalSymlinks(path); err != nil {
			return nil, fmt.Errorf("find the libraries of Bun: %w", err)
		}
	}
	return files, nil
}

// ready says what the client lacks to run sessions.
func (c *Client) ready(ctx context.Context) error {
	if err := c.registered(ctx); err != nil {
		return err
	}
	node, err := c.node(ctx)
	if err != nil {
		return err
	}
	if node.Status != nomad.NodeStatusReady {
		return fmt.Errorf("the node is %s", node.Status)
	}
	driver := node.Drivers["bun"]
	switch {
	case driver == nil:
		return errors.New("the node has no driver bun")
	case !driver.Detected, !driver.Healthy:
		return fmt.Errorf("the driver bun is not healthy: %s", driver.HealthDescription)
	}
	return nil
}

// registered says whether the client has registered since its start. What the
// server says of the node does not tell: it may be from before a restart.
func (c *Client) registered(ctx context.Context) error {
	body, err := c.stack.get(ctx, c.url+"/v1/agent/self")
	if err != nil {
		return err
	}
	var self nomad.AgentSelf
	if err := json.Unmarshal(body, &self); err != nil {
		return fmt.Errorf("decode agent: %w", err)
	}
	if ttl := self.Stats["client"]["heartbeat_ttl"]; ttl == "" || ttl == "0s" {
		return errors.New("the client has not registered")
	}
	return nil
}

// node is what the server knows of the client.
func (c *Client) node(ctx context.Context) (*nomad.NodeListStub, error) {
	nodes, _, err := c.stack.Nomad.Nodes().List((&nomad.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	for _, node := range nodes {
		if node.Name == c.Name {
			return node, nil
		}
	}
	return nil, fmt.Errorf("no node %s has registered", c.Name)
}

// ID is the node's, in Nomad.
func (c *Client) ID(ctx context.Context) (string, error) {
	node, err := c.node(ctx)
	if err != nil {
		return "", err
	}
	return node.ID, nil
}

// Status is what Nomad's server says of the node: "ready", "down" and so on.
func (c *Client) Status(ctx context.Context) (string, error) {
	node, err := c.node(ctx)
	if err != nil {
		return "", err
	}
	return node.Status, nil
}

// TakeNew says whether Nomad may place new allocations on the node. Without that
// Nomad fills one node before it takes the next.
func (c *Client) TakeNew(ctx context.Context, may bool) error {
	node, err := c.node(ctx)
	if err != nil {
		return err
	}
	if _, err := c.stack.Nomad.Nodes().ToggleEligibility(node.ID, may, (&nomad.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("set eligibility of %s: %w", c.Name, err)
	}
	return nil
}

// plugin is the pid of the driver plugin that Nomad has started, or 0. Nomad
// starts a second one for a moment when it reads plugins' configuration
// schemas; the first that is found counts.
func (c *Client) plugin() (int, error) { return c.running(pluginName) }

// running is the pid of a process of the node's that runs a program, or 0.
func (c *Client) running(program string) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	owner := c.debris(false)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		exe, _ := os.Readlink(procFile(pid, "exe")) // absent for one that has just ended
		if filepath.Base(strings.TrimSuffix(exe, " (deleted)")) == program && owner.owns(pid) {
			return pid, nil
		}
	}
	return 0, nil
}

// KillPlugin sends the driver plugin a signal and waits for its end. Nomad
// starts another one as soon as it notices.
func (c *Client) KillPlugin(ctx context.Context, signal syscall.Signal) error {
	return c.kill(ctx, pluginName, signal)
}

// KillRestorer does the same to what restores workspaces, which the plugin starts again.
func (c *Client) KillRestorer(ctx context.Context, signal syscall.Signal) error {
	return c.kill(ctx, restorerName, signal)
}

func (c *Client) kill(ctx context.Context, program string, signal syscall.Signal) error {
	pid, err := c.running(program)
	if err != nil {
		return fmt.Errorf("find %s: %w", program, err)
	}
	if pid == 0 {
		return fmt.Errorf("signal %s: it does not run", program)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open process %d of %s: %w", pid, program, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil {
		return fmt.Errorf("signal %s: %w", program, err)
	}
	return waitExit(ctx, fd)
}

// waitExit waits until the process of a pidfd has ended.
func waitExit(ctx context.Context, pidfd int) error {
	const slice = 100 // ms between looks at ctx
	for {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, slice)
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return os.NewSyscallError("poll", err)
		case ctx.Err() != nil:
			return fmt.Errorf("wait for the end of a process: %w", context.Cause(ctx))
		}
	}
}

// Pause makes agent and plugin stand still, while the sandboxes go on: as if no
// packet came from or to the machine any more.
func (c *Client) Pause(ctx context.Context) error {
	if err := c.Agent.Pause(ctx); err != nil { // first: it would start another plugin
		return err
	}
	return c.eachPlugin(func(pid int) error { return pause(ctx, pid) })
}

// Resume lets agent and plugin go on.
func (c *Client) Resume() error {
	err := c.eachPlugin(func(pid int) error { return syscall.Kill(pid, syscall.SIGCONT) })
	return errors.Join(err, c.Agent.Resume())
}

func (c *Client) eachPlugin(do func(pid int) error) error {
	pid, err := c.plugin()
	if err != nil {
		return fmt.Errorf("find plugin: %w", err)
	}
	if pid == 0 {
		return nil
	}
	return do(pid)
}

// Kill is the sudden death of the whole machine: agent, plugin and every process
// of every sandbox end at once, and none sees the end of another. What a machine
// that starts anew would not have any more, mounts, cgroups and interfaces, stays.
//
// So does the restorer: where the machine goes on, a plugin that dies in a mount which
// waits for the restorer, at the same instant as that, never ends (docs/operation.md).
func (c *Client) Kill(ctx context.Context) error {
	const pause = 5 * time.Millisecond // what a killed process takes to go
	c.Agent.paused = false
	found := c.debris(false)
	for {
		items, err := found.processes()
		if err != nil {
			return fmt.Errorf("find the processes of %s: %w", c.Name, err)
		}
		items = slices.DeleteFunc(items, func(i item) bool { return strings.Contains(i.what, "/"+restorerName+" ") })
		if len(items) == 0 && !c.Agent.Alive() {
			return nil
		}
		var errs []error
		for _, item := range items {
			errs = append(errs, item.remove())
		}
		if err := errors.Join(append(errs, found.thaw())...); err != nil {
			return fmt.Errorf("kill the processes of %s: %w", c.Name, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("kill %s: %d processes are still there: %w", c.Name, len(items), context.Cause(ctx))
		}
	}
}

// Restart starts the client again after Kill, or ends its agent, as its operator
// would, and starts that.
func (c *Client) Restart(ctx context.Context) error {
	if err := c.Resume(); err != nil {
		return err
	}
	return c.Agent.Restart(ctx)
}

// HideGVisor restarts the agent as one whose plugin finds no runsc where it is
// configured to be, or, with hide false, as it was before.
func (c *Client) HideGVisor(ctx context.Context, hide bool) error {
	runsc := c.stack.tools.runsc
	if hide {
		runsc = filepath.Join(c.stack.Dir, "none", "runsc")
	}
	if _, err := c.write(runsc); err != nil {
		return err
	}
	return c.Agent.Restart(ctx)
}

// Leftovers are Stack.Leftovers of this client alone.
func (c *Client) Leftovers(ctx context.Context) ([]string, error) {
	if err := errors.Join(c.stack.noteAllocs(ctx), c.collect(ctx)); err != nil {
		return nil, err
	}
	items, err := c.debris(true).find()
	if err != nil {
		return nil, fmt.Errorf("look for leftovers of %s: %w", c.Name, err)
	}
	return texts(items), nil
}

// debris is what the client has on the machine; running as in debris.
func (c *Client) debris(running bool) *debris {
	s := c.stack
	maps.Copy(c.allocs, allocIDs(s.Dir, suffix(c.number)))
	return &debris{
		dir: s.Dir, clients: suffix(c.number), mark: c.mark(),
		dirs:   []string{filepath.Join(s.Dir, c.Name), filepath.Join(s.Dir, "driver"+suffix(c.number))},
		pool:   c.pool,
		allocs: maps.Clone(c.allocs), running: running,
	}
}
