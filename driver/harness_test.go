// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/testutils"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/agent"
	"github.com/buntime/buntime/driver/sandbox/network/networktest"
)

// runtimes are what the tests of this package run over. The first is what
// tests use that are not about a Runtime.
var runtimes = []runtimeUnderTest{
	{
		name:   "processes",
		open:   openFake,
		config: func(*testing.T) map[string]any { return map[string]any{"bun": "/bin/sh"} },
		source: func(p program) (string, string) { return "main.sh", p.sh },
	},
	{
		name:   "sandboxes",
		open:   agent.Open,
		config: sandboxConfig,
		source: func(p program) (string, string) { return "main.ts", p.ts },

		cgroupNamespace: true,
	},
}

// runtimeUnderTest is a Runtime with what tells it from others.
type runtimeUnderTest struct {
	name   string
	open   driver.OpenRuntime
	config func(*testing.T) map[string]any // of the plugin, state_dir aside
	source func(program) (file, text string)

	cgroupNamespace bool
}

// program is one program in two languages.
type program struct{ sh, ts string }

var (
	// sleeper runs until it is told to stop.
	sleeper = program{sh: "exec sleep 1000", ts: "setTimeout(() => {}, 1e6)"}
	// exiter exits at once with 3, and says something on both outputs.
	exiter = program{
		sh: "echo \"out $1 $NOMAD_TASK_DIR $COLOUR\"\necho err >&2\nexit 3",
		ts: "console.log('out', process.argv[2], process.env.NOMAD_TASK_DIR, process.env.COLOUR); console.error('err'); process.exit(3)",
	}
	// stubborn ignores SIGINT and exits with 7 on SIGUSR1. It makes a file once
	// it does.
	stubborn = program{
		sh: "trap '' INT\ntrap 'exit 7' USR1\ntouch $(dirname $0)/ready\nwhile :; do sleep 0.02; done",
		ts: `process.on("SIGINT", () => {}); process.on("SIGUSR1", () => process.exit(7));
			await Bun.write(import.meta.dir + "/ready", ""); setInterval(() => {}, 1000)`,
	}
	// waiter exits with 6 when it finds a file.
	waiter = program{
		sh: "cd $(dirname $0)\ntouch ready\nuntil [ -e end ]; do sleep 0.02; done\nexit 6",
		ts: `const at = (name: string) => import.meta.dir + "/" + name;
			await Bun.write(at("ready"), "");
			while (!(await Bun.file(at("end")).exists())) await Bun.sleep(20);
			process.exit(6)`,
	}
)

// sandboxConfig is for sandboxes from the tool cache's newest rootfs and an
// init built here. Each plugin has an address pool of its own.
func sandboxConfig(t *testing.T) map[string]any {
	t.Helper()
	roots, _ := filepath.Glob(filepath.Join(toolCache(), "rootfs-*"))
	if len(roots) == 0 {
		t.Fatal("no rootfs in the tool cache: make rootfs")
	}
	slices.SortFunc(roots, func(a, b string) int { return modified(t, a).Compare(modified(t, b)) })
	init, err := buildInit()
	must.NoError(t, err)
	return map[string]any{
		"rootfs":  roots[len(roots)-1],
		"init":    init,
		"network": map[string]any{"pool": networktest.FreePool(t).String()},
	}
}

func modified(t *testing.T, path string) time.Time {
	t.Helper()
	info, err := os.Stat(path)
	must.NoError(t, err)
	return info.ModTime()
}

var buildInit = sync.OnceValues(func() (string, error) {
	path := filepath.Join(os.TempDir(), "buntime-init")
	cmd := exec.Command("go", "build", "-o", path, "../plugins/buntime-init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build init: %w: %s", err, out)
	}
	return path, nil
})

func toolCache() string {
	if dir := os.Getenv("BUNTIME_CACHE"); dir != "" {
		return dir
	}
	dir, _ := os.UserCacheDir()
	return filepath.Join(dir, "buntime")
}

// eachRuntime runs a test over every Runtime that this machine can have.
func eachRuntime(t *testing.T, test func(*testing.T, runtimeUnderTest)) {
	for _, r := range runtimes {
		t.Run(r.name, func(t *testing.T) {
			if os.Geteuid() != 0 {
				t.Skip("needs root")
			}
			t.Parallel()
			test(t, r)
		})
	}
}

// plugin is a driver behind gRPC, as Nomad has it.
type plugin struct {
	*testutils.DriverHarness
	runtimeUnderTest
	settings map[string]any
	tasks    []string         // to be destroyed in the end
	process  *goplugin.Client // nil for a driver in the test's process
	driver   *driver.Driver   // the driver in the test's process
}

func newPlugin(t *testing.T, r runtimeUnderTest, config map[string]any) *plugin {
	t.Helper()
	p := &plugin{runtimeUnderTest: r, settings: newSettings(t, r, config)}
	// Not the test's context: that ends before its clean-up.
	p.driver = driver.New(context.Background(), hclog.NewNullLogger(), r.open)
	p.serve(t, p.driver)
	return p
}

// newProcess is a plugin in a process of its own.
func newProcess(t *testing.T, r runtimeUnderTest) *plugin {
	t.Helper()
	p := &plugin{runtimeUnderTest: r, settings: newSettings(t, r, nil)}
	p.startProcess(t)
	return p
}

func newSettings(t *testing.T, r runtimeUnderTest, config map[string]any) map[string]any {
	t.Helper()
	stateDir, err := os.MkdirTemp("", "state-")
	must.NoError(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(stateDir); err != nil {
			t.Error(err)
		}
	})
	settings := r.config(t)
	settings["state_dir"] = stateDir
	maps.Copy(settings, config)
	return settings
}

// serve puts a driver behind gRPC and configures it.
func (p *plugin) serve(t *testing.T, d drivers.DriverPlugin) {
	t.Helper()
	p.DriverHarness = testutils.NewDriverHarness(t, d)
	t.Cleanup(func() { p.end(t) })
	must.NoError(t, p.SetConfig(&base.Config{PluginConfig: p.encodedConfig(t)}))
}

// anew is a second driver over the state of p, which the fake Runtime does not
// mind.
func (p *plugin) anew(t *testing.T) *plugin {
	t.Helper()
	again := &plugin{runtimeUnderTest: p.runtimeUnderTest, settings: p.settings}
	again.driver = driver.New(context.Background(), hclog.NewNullLogger(), p.open)
	again.serve(t, again.driver)
	return again
}

// runtimeEnv tells a plugin's process which Runtime to serve (see TestMain).
const runtimeEnv = "BUNTIME_TEST_RUNTIME"

func (p *plugin) startProcess(t *testing.T) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), runtimeEnv+"="+p.name)
	p.process = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  base.Handshake,
		Plugins:          goplugin.PluginSet{base.PluginTypeDriver: drivers.NewDriverPlugin(nil, hclog.NewNullLogger())},
		Cmd:              cmd,
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		Logger:           hclog.NewNullLogger(),
	})
	t.Cleanup(p.process.Kill)
	conn, err := p.process.Client()
	must.NoError(t, err)
	d, err := conn.Dispense(base.PluginTypeDriver)
	must.NoError(t, err)
	p.serve(t, d.(drivers.DriverPlugin))
}

// restart kills a plugin's process and starts another one over its state. It
// returns when the tasks are to be recovered.
func (p *plugin) restart(t *testing.T) {
	t.Helper()
	pid, err := strconv.Atoi(p.process.ID())
	must.NoError(t, err)
	must.NoError(t, unix.Kill(pid, unix.SIGKILL))
	eventually(t, "plugin is dead", p.process.Exited)
	disconnect(p.DriverHarness)
	p.startProcess(t)
}

// end destroys the plugin's tasks and ends it. It may be called again.
func (p *plugin) end(t *testing.T) {
	t.Helper()
	p.destroyAll(t)
	disconnect(p.DriverHarness)
	if p.process != nil {
		p.process.Kill()
	} else {
		must.NoError(t, p.driver.Close())
	}
}

func (p *plugin) destroyAll(t *testing.T) {
	t.Helper()
	for _, id := range p.tasks {
		if err := p.Impl().DestroyTask(id, true); err != nil {
			t.Error(err)
		}
	}
	p.tasks = nil
}

// encodedConfig is the plugin's configuration as Nomad sends it.
func (p *plugin) encodedConfig(t *testing.T) []byte {
	t.Helper()
	var data []byte
	must.NoError(t, base.MsgPackEncode(&data, p.settings))
	return data
}

// disconnect ends a harness, as its Kill does. Kill stops the server twice at
// a time, by a call over the connection and directly, which is a data race of
// go-plugin's; so this makes the call only.
func disconnect(h *testutils.DriverHarness) {
	field := reflect.ValueOf(h).Elem().FieldByName("client")
	client := *(**goplugin.GRPCClient)(field.Addr().UnsafePointer())
	_ = client.Close()
}

// kept is a handle as an agent has it again after a restart, without the
// unexported parts of TaskConfig.
func kept(t *testing.T, handle *drivers.TaskHandle) *drivers.TaskHandle {
	t.Helper()
	var data []byte
	must.NoError(t, base.MsgPackEncode(&data, handle))
	handle = new(drivers.TaskHandle)
	must.NoError(t, base.MsgPackDecode(data, handle))
	return handle
}

// task is a task of a program, ready to be started; config adds to its
// `config` block. Its job has `logs { disabled = true }`.
func (p *plugin) task(t *testing.T, prog program, config map[string]any) *drivers.TaskConfig {
	t.Helper()
	cfg := p.taskWithLogs(t, prog, config, false)
	cfg.StdoutPath, cfg.StderrPath = os.DevNull, os.DevNull
	return cfg
}

func (p *plugin) taskWithLogs(t *testing.T, prog program, config map[string]any, logs bool) *drivers.TaskConfig {
	t.Helper()
	file, text := p.source(prog)
	all := map[string]any{}
	if prog != (program{}) {
		all["script"] = "local/" + file
	}
	maps.Copy(all, config)
	alloc := uuid.Generate()
	cfg := &drivers.TaskConfig{
		ID:      alloc + "/web/" + uuid.Short(),
		AllocID: alloc,
		Name:    "web",
		Env:     map[string]string{"COLOUR": "green"},
		Resources: &drivers.Resources{
			NomadResources: &structs.AllocatedTaskResources{
				Cpu:    structs.AllocatedCpuResources{CpuShares: 100},
				Memory: structs.AllocatedMemoryResources{MemoryMB: 512},
			},
			LinuxResources: &drivers.LinuxResources{
				CPUShares:        100,
				MemoryLimitBytes: 512 << 20,
			},
		},
	}
	cfg.Resources.LinuxResources.CpusetCgroupPath = taskCgroup(t, cfg)
	must.NoError(t, cfg.EncodeConcreteDriverConfig(all))
	cleanup := p.MkAllocDir(cfg, logs)
	t.Cleanup(cleanup)
	if text != "" {
		must.NoError(t, os.WriteFile(filepath.Join(cfg.TaskDir().LocalDir, file), []byte(text), 0o644))
	}
	return cfg
}

// start starts a task and sees to its removal.
func (p *plugin) start(t *testing.T, cfg *drivers.TaskConfig) *drivers.TaskHandle {
	t.Helper()
	handle, network, err := p.StartTask(cfg)
	must.NoError(t, err)
	must.Nil(t, network)
	p.tasks = append(p.tasks, cfg.ID)
	t.Cleanup(func() { p.destroyAll(t) }) // before the task's directory goes
	return handle
}

// result is how a task ended, as WaitTask tells.
func (p *plugin) result(t *testing.T, id string) *drivers.ExitResult {
	t.Helper()
	results, err := p.WaitTask(t.Context(), id)
	must.NoError(t, err)
	select {
	case result := <-results:
		return result
	case <-time.After(20 * time.Second):
		t.Fatal("task did not end")
		return nil
	}
}

// eventually waits for what only polling can tell.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	within(t, 10*time.Second, what, done)
}

func within(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}
