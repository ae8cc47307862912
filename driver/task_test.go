// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// nomadTask is a task as Nomad describes it.
func nomadTask(t *testing.T) *drivers.TaskConfig {
	cfg := &drivers.TaskConfig{
		ID:         "a1/web/1234abcd",
		AllocID:    "a1",
		Name:       "web",
		JobID:      "shop",
		NodeID:     "n1",
		AllocDir:   t.TempDir(),
		StdoutPath: "/alloc/logs/.web.stdout.fifo",
		StderrPath: "/alloc/logs/.web.stderr.fifo",
		Env: map[string]string{
			"NOMAD_TASK_DIR": "/local",
			"NOMAD_ADDR_api": "192.0.2.1:20001",
			"CONSUL_TOKEN":   "c",
			"VAULT_TOKEN":    "v",
			"COLOUR":         "green",
		},
		Resources: &drivers.Resources{
			LinuxResources: &drivers.LinuxResources{
				MemoryLimitBytes: 512 << 20,
				CPUShares:        250,
				CpusetCpus:       "2-3",
				CpusetCgroupPath: "/sys/fs/cgroup/nomad.slice/share.slice/a1.web.scope",
			},
			Ports: &structs.AllocatedPorts{
				{Label: "api", Value: 20001, HostIP: "192.0.2.1"},
				{Label: "preview", Value: 20002, HostIP: "2001:db8::1"},
				{Label: "http", Value: 20003, To: 8080, HostIP: "192.0.2.1"},
				{Label: "any", Value: 20004, To: -1, HostIP: "192.0.2.1"},
			},
		},
	}
	must.NoError(t, os.MkdirAll(cfg.TaskDir().LocalDir, 0o755))
	must.NoError(t, os.MkdirAll(cfg.TaskDir().SharedAllocDir, 0o755))
	return cfg
}

func TestNewTaskOrdinary(t *testing.T) {
	cfg := nomadTask(t)
	tc := &taskConfig{
		Script:   "/local/app.ts",
		Args:     []string{"--port", "8080"},
		CPUCores: 0.5,
		Limits:   LimitDefaults{PidsMax: 64, DiskMB: 10, FilesMax: 256},
	}
	task := newTask(cfg, tc, &Config{Bun: "/bin/bun"})
	must.NoError(t, refuse(cfg, task))
	must.Eq(t, &Task{
		ID: "a1/web/1234abcd", AllocID: "a1", Name: "web", JobID: "shop", NodeID: "n1",
		Cgroup: "/nomad.slice/share.slice/a1.web.scope",
		Limits: Limits{
			Memory: 512 << 20, CPUShares: 250, CPUCores: 0.5, Cpuset: "2-3",
			Pids: 64, Files: 256, Disk: 10 << 20,
		},
		Env:        cfg.Env,
		Argv:       []string{"/bin/bun", "run", "/local/app.ts", "--port", "8080"},
		Dir:        "/local",
		LocalDir:   filepath.Join(cfg.AllocDir, "web/local"),
		SecretsDir: filepath.Join(cfg.AllocDir, "web/secrets"),
		AllocDir:   filepath.Join(cfg.AllocDir, "alloc"),
		Stdout:     cfg.StdoutPath,
		Stderr:     cfg.StderrPath,
		Ports: []Port{
			{Label: "api", Listen: "192.0.2.1:20001", Port: 20001},
			{Label: "preview", Listen: "[2001:db8::1]:20002", Port: 20002},
			{Label: "http", Listen: "192.0.2.1:20003", Port: 8080},
			{Label: "any", Listen: "192.0.2.1:20004", Port: 20004},
		},
	}, task)

	// In mode "bridge" or "none" the allocation has a namespace, and whatever
	// forwards ports to it is not ours.
	cfg.NetworkIsolation = &drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup, Path: "/run/netns/a1"}
	task = newTask(cfg, tc, &Config{Bun: "/bin/bun"})
	must.NoError(t, refuse(cfg, task))
	must.Eq(t, "/run/netns/a1", task.Netns)
	must.Eq(t, 0, len(task.Ports))
}

// TestNetworkPolicyOfAJoinedNamespace: a promise that cannot be kept is not
// made, whatever the mode.
func TestNetworkPolicyOfAJoinedNamespace(t *testing.T) {
	for _, policy := range []NetworkPolicy{{}, {Mode: "none"}, {Mode: "internet"}, {Mode: "allow", Allow: []string{"example.com"}}} {
		cfg := nomadTask(t)
		tc := &taskConfig{Script: "/local/app.ts", Network: &policy}
		task := newTask(cfg, tc, new(Config))
		must.NoError(t, refuse(cfg, task))
		must.Eq(t, &policy, task.Network)
		cfg.NetworkIsolation = &drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup, Path: "/run/netns/a1"}
		must.ErrorContains(t, refuse(cfg, newTask(cfg, tc, new(Config))), `leave the block out, or have the group's network in mode "host"`)
	}
}

func TestNewTaskSession(t *testing.T) {
	cfg := nomadTask(t)
	session := &Session{ID: "ses_abcdefghij0123456789", Epoch: 1, ExpiresAt: time.Now().Add(time.Hour)}
	tc := &taskConfig{Session: session, Limits: builtin}
	task := newTask(cfg, tc, &Config{Bun: "/bin/bun"})
	must.NoError(t, refuse(cfg, task))
	must.Eq(t, session, task.Session)
	must.Eq(t, "192.0.2.1:20001", task.API)
	must.Eq(t, "[2001:db8::1]:20002", task.Preview)
	must.Eq(t, map[string]string{"COLOUR": "green"}, task.Env)
	must.Eq(t, 0, len(task.Argv)+len(task.Ports))
	must.Eq(t, "", task.LocalDir+task.SecretsDir+task.AllocDir+task.Dir)

	*cfg.Resources.Ports = (*cfg.Resources.Ports)[:1]
	must.ErrorContains(t, refuse(cfg, newTask(cfg, tc, new(Config))), `ports labelled "api" and "preview"`)

	cfg.NetworkIsolation = &drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup}
	must.ErrorContains(t, refuse(cfg, newTask(cfg, tc, new(Config))), `mode "host"`)
}

func TestNewTaskRefusesWhatItCannotDo(t *testing.T) {
	for want, change := range map[string]func(*drivers.TaskConfig){
		`user "root"`:      func(cfg *drivers.TaskConfig) { cfg.User = "root" },
		`volume at /data`:  func(cfg *drivers.TaskConfig) { cfg.Mounts = []*drivers.MountConfig{{TaskPath: "/data"}} },
		`device /dev/fuse`: func(cfg *drivers.TaskConfig) { cfg.Devices = []*drivers.DeviceConfig{{TaskPath: "/dev/fuse"}} },
		`dns block`:        func(cfg *drivers.TaskConfig) { cfg.DNS = new(drivers.DNSConfig) },
	} {
		cfg := nomadTask(t)
		change(cfg)
		task := newTask(cfg, &taskConfig{Script: "/local/app.ts"}, new(Config))
		must.ErrorContains(t, refuse(cfg, task), want)
	}
}

func TestCgroupOf(t *testing.T) {
	cfg := &drivers.TaskConfig{AllocID: "a1", Name: "web"}
	for given, want := range map[string][2]string{
		"": {},
		"/sys/fs/cgroup/nomad.slice/share.slice/a1.web.scope":   {"/nomad.slice/share.slice/a1.web.scope"},
		"/sys/fs/cgroup/mine.slice/reserve.slice/a1.web.scope":  {"/mine.slice/reserve.slice/a1.web.scope"},
		"/sys/fs/cgroup/cpuset/nomad/share":                     {"/nomad/a1.web", "/sys/fs/cgroup/cpuset/nomad/share"},
		"/sys/fs/cgroup/cpuset/nomad/reserve/a1.web":            {"/nomad/a1.web", "/sys/fs/cgroup/cpuset/nomad/reserve/a1.web"},
		"/sys/fs/cgroup/cpuset/some/where/nomad/share":          {"/some/where/nomad/a1.web", "/sys/fs/cgroup/cpuset/some/where/nomad/share"},
		"/sys/fs/cgroup/cpuset/some/where/nomad/reserve/a1.web": {"/some/where/nomad/a1.web", "/sys/fs/cgroup/cpuset/some/where/nomad/reserve/a1.web"},
	} {
		cgroup, cpuset := cgroupOf(cfg, given)
		must.Eq(t, want, [2]string{cgroup, cpuset}, must.Sprint(given))
	}
}

func TestPrepareScript(t *testing.T) {
	cfg := nomadTask(t)
	local := cfg.TaskDir().LocalDir
	write := func(path string) {
		must.NoError(t, os.WriteFile(path, []byte("1"), 0o600))
	}
	outside := filepath.Join(t.TempDir(), "outside.ts")
	write(outside)
	write(filepath.Join(local, "app.ts"))
	write(filepath.Join(cfg.TaskDir().SharedAllocDir, "shared.ts"))
	must.NoError(t, os.Symlink("app.ts", filepath.Join(local, "link.ts")))
	must.NoError(t, os.Symlink(outside, filepath.Join(local, "out.ts")))
	must.NoError(t, os.Symlink("../../alloc/shared.ts", filepath.Join(local, "up.ts")))
	must.NoError(t, os.Mkdir(filepath.Join(local, "src"), 0o755))

	for script, want := range map[string]string{
		"/local/app.ts":    "",
		"/local/link.ts":   "",
		"/alloc/shared.ts": "",
		"/local/none.ts":   "have a template or artifact block put it there",
		"/local/out.ts":    "escapes",
		"/local/up.ts":     "escapes",
		"/local/src":       "not a regular file",
		"/secrets/app.ts":  "open task directory", // the test made none
	} {
		err := prepare(cfg, &taskConfig{Script: script})
		if want == "" {
			must.NoError(t, err, must.Sprint(script))
		} else {
			must.ErrorContains(t, err, want, must.Sprint(script))
		}
	}
}

func TestPrepareCode(t *testing.T) {
	cfg := nomadTask(t)
	target := filepath.Join(t.TempDir(), "victim")
	must.NoError(t, os.WriteFile(target, []byte("mine"), 0o600))
	file := filepath.Join(cfg.TaskDir().LocalDir, codeFile)
	read := func() string {
		text, err := os.ReadFile(file)
		must.NoError(t, err)
		info, err := os.Lstat(file)
		must.NoError(t, err)
		must.Eq(t, 0o644, info.Mode())
		return string(text)
	}
	must.NoError(t, prepare(cfg, &taskConfig{Code: "first"}))
	must.Eq(t, "first", read())
	must.NoError(t, prepare(cfg, &taskConfig{Code: "2"}))
	must.Eq(t, "2", read())
	// What an earlier start of the task may have left in its directory.
	must.NoError(t, os.Remove(file))
	must.NoError(t, os.Symlink(target, file))
	must.NoError(t, prepare(cfg, &taskConfig{Code: "third"}))
	must.Eq(t, "third", read())
	text, err := os.ReadFile(target)
	must.NoError(t, err)
	must.Eq(t, "mine", string(text))
}

func TestPrepareSession(t *testing.T) {
	expired := &taskConfig{Session: &Session{ID: "ses_x", ExpiresAt: time.Now().Add(-time.Second)}}
	must.ErrorContains(t, prepare(nomadTask(t), expired), "session ses_x expired at")
}
