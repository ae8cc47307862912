// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// The port labels of a session's network block.
const (
	apiLabel     = "api"
	previewLabel = "preview"
)

// newTask says what is to be run for a task of Nomad's. It looks at nothing
// but its arguments, so that it serves recovery as well as start.
func newTask(cfg *drivers.TaskConfig, tc *taskConfig, config *Config) *Task {
	task := &Task{
		ID:      cfg.ID,
		AllocID: cfg.AllocID,
		Name:    cfg.Name,
		JobID:   cfg.JobID,
		NodeID:  cfg.NodeID,
		Stdout:  cfg.StdoutPath,
		Stderr:  cfg.StderrPath,
		Session: tc.Session,
		Network: tc.Network,

		Isolation: tc.Isolation,
		Limits: Limits{
			CPUCores: tc.CPUCores,
			Pids:     tc.Limits.PidsMax,
			Files:    tc.Limits.FilesMax,
			Disk:     tc.Limits.DiskMB << 20,
		},
	}
	var ports []Port
	if r := cfg.Resources; r != nil {
		if l := r.LinuxResources; l != nil {
			task.Limits.Memory = l.MemoryLimitBytes
			task.Limits.CPUShares = l.CPUShares
			task.Limits.Cpuset = l.CpusetCpus
			task.Cgroup, task.CpusetCgroup = cgroupOf(cfg, l.CpusetCgroupPath)
		}
		ports = portsOf(r)
	}
	if tc.Session != nil {
		task.becomeSession(cfg.Env, ports)
		return task
	}
	task.Argv = append([]string{config.Bun, "run", tc.Script}, tc.Args...)
	task.Dir = localDir
	task.Env = cfg.Env
	dirs := cfg.TaskDir()
	task.LocalDir, task.SecretsDir, task.AllocDir = dirs.LocalDir, dirs.SecretsDir, dirs.SharedAllocDir
	if n := cfg.NetworkIsolation; n != nil && n.Mode == drivers.NetIsolationModeGroup {
		task.Netns = n.Path // what forwards its ports is Nomad's CNI
	} else {
		task.Ports = ports
	}
	return task
}

// becomeSession fills in what only sessions have.
func (task *Task) becomeSession(env map[string]string, ports []Port) {
	for _, port := range ports {
		switch port.Label {
		case apiLabel:
			task.API = port.Listen
		case previewLabel:
			task.Preview = port.Listen
		}
	}
	// A session never sees what runs it.
	task.Env = make(map[string]string)
	for key, value := range env {
		if !hasAnyPrefix(key, "NOMAD_", "CONSUL_", "VAULT_") {
			task.Env[key] = value
		}
	}
}

// refuse names what a job may ask of Nomad but not of this driver, rather than
// to run it without, and what it should have asked for.
func refuse(cfg *drivers.TaskConfig, task *Task) error {
	group := cfg.NetworkIsolation != nil && cfg.NetworkIsolation.Mode == drivers.NetIsolationModeGroup
	switch {
	case cfg.User != "":
		return fmt.Errorf("user %q: the bun driver runs everything as a user of its own", cfg.User)
	case len(cfg.Mounts) != 0:
		return fmt.Errorf("volume at %s: the bun driver mounts no volumes", cfg.Mounts[0].TaskPath)
	case len(cfg.Devices) != 0:
		return fmt.Errorf("device %s: the bun driver passes no devices on", cfg.Devices[0].TaskPath)
	case cfg.DNS != nil:
		return errors.New("dns block of the network: the bun driver resolves names as the node does")
	case group && task.Network != nil:
		return errors.New(`network block of the task's config: the group's network is in mode "bridge", "none" or of CNI, and what that ` +
			`reaches is not the bun driver's to say; leave the block out, or have the group's network in mode "host"`)
	case group && task.Isolation == IsolationGVisor:
		return errors.New(`isolation "gvisor" brings a network stack of its own, which cannot share an allocation's: use network mode "host"`)
	case task.Session == nil:
		return nil
	case group:
		return errors.New(`a session needs its group's network in mode "host": the node agent answers on the node's address`)
	case task.API == "" || task.Preview == "":
		return fmt.Errorf("a session needs ports labelled %q and %q in its group's network block", apiLabel, previewLabel)
	}
	return nil
}

// cgroupOf finds the task's own cgroup from the one path that Nomad gives:
// on v2 that is it; on v1 the path is of the cpuset controller, where most
// tasks share a cgroup, and the others' names follow from it.
func cgroupOf(cfg *drivers.TaskConfig, given string) (cgroup, cpuset string) {
	const root = "/sys/fs/cgroup"
	rest, v1 := strings.CutPrefix(given, root+"/cpuset/")
	if !v1 {
		return strings.TrimPrefix(given, root), ""
	}
	parent := path.Dir(rest) // <parent>/share
	if path.Base(parent) == "reserve" {
		parent = path.Dir(parent) // <parent>/reserve/<alloc>.<task>
	}
	return path.Join("/", parent, cfg.AllocID+"."+cfg.Name), given
}

func portsOf(r *drivers.Resources) []Port {
	if r.Ports == nil {
		return nil
	}
	ports := make([]Port, 0, len(*r.Ports))
	for _, p := range *r.Ports {
		inside := p.To
		if inside <= 0 {
			inside = p.Value
		}
		ports = append(ports, Port{
			Label:  p.Label,
			Listen: net.JoinHostPort(p.HostIP, strconv.Itoa(p.Value)),
			Port:   inside,
		})
	}
	return ports
}

// prepare does and checks what must be so at the start of a task.
func prepare(cfg *drivers.TaskConfig, tc *taskConfig) error {
	switch {
	case tc.Session != nil:
		if !tc.Session.ExpiresAt.After(time.Now()) {
			return fmt.Errorf("session %s expired at %s", tc.Session.ID, tc.Session.ExpiresAt.Format(time.RFC3339))
		}
		return nil
	case tc.Code != "":
		return writeCode(cfg.TaskDir().LocalDir, tc.Code)
	default:
		return checkScript(cfg, tc.Script)
	}
}

// writeCode puts inline code where Bun finds it. An earlier start of the task
// could have left anything there, so the file is always made anew and nothing
// is followed out of the directory.
func writeCode(dir, code string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open task directory: %w", err)
	}
	defer root.Close()
	if err := root.RemoveAll(codeFile); err != nil {
		return fmt.Errorf("remove earlier code: %w", err)
	}
	file, err := root.OpenFile(codeFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("create file for code: %w", err)
	}
	_, err = file.WriteString(code)
	// Whatever the plugin's umask: in the sandbox root is not the owner.
	return errors.Join(err, file.Chmod(0o644), file.Close())
}

// checkScript says at once what Bun would say less clearly.
func checkScript(cfg *drivers.TaskConfig, script string) error {
	top, rest, _ := strings.Cut(script[1:], "/")
	dir := filepath.Join(cfg.TaskDir().Dir, top)
	if "/"+top == allocDir {
		dir = cfg.TaskDir().SharedAllocDir
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open task directory: %w", err)
	}
	defer root.Close()
	info, err := root.Stat(rest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("script %s is not there: have a template or artifact block put it there", script)
	case err != nil:
		return fmt.Errorf("script %s: %w", script, err) // a link that leads out of the directory, too
	case !info.Mode().IsRegular():
		return fmt.Errorf("script %s is not a regular file", script)
	}
	return nil
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	for _, prefix := range prefixes {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}
