// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"time"

	nomad "github.com/hashicorp/nomad/api"
	"golang.org/x/sys/unix"
)

// dispatchToResult runs the module by a dispatch of a parameterized batch job.
// The result comes through a named pipe, and counts once its line is there.
// A session's job has its logs disabled: silent does the same to the peer.
func (m *bench) dispatchToResult(name, driver string, silent bool) *contender {
	id := fmt.Sprintf("bench-%s-%t", driver, silent)
	path := filepath.Join(m.dir, id)
	m.must(unix.Mkfifo(path, 0o600))
	m.must(os.Chmod(path, 0o666)) // exec is nobody
	// Open for writing, too, so that it has no end between two dispatches.
	pipe, err := os.OpenFile(path, os.O_RDWR, 0)
	m.must(err)
	m.b.Cleanup(func() { pipe.Close() })
	lines := bufio.NewReader(pipe)

	m.registerJob(id, driver, silent)
	write := new(nomad.WriteOptions).WithContext(m.ctx)
	var dispatched string
	return &contender{
		name:   name,
		before: m.quiet,
		run: func() error {
			answer, _, err := m.stack.Nomad.Jobs().Dispatch(id, nil, nil, "", write)
			if err != nil {
				return err
			}
			dispatched = answer.DispatchedJobID
			if err := pipe.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				return err
			}
			line, err := lines.ReadBytes('\n')
			return printed(line, err)
		},
		after: func() error {
			_, _, err := m.stack.Nomad.Jobs().Deregister(dispatched, true, write)
			return err
		},
	}
}

// registerJob registers a parameterized job that runs the module with its
// output in the pipe of the job's name. With the driver exec it sees the
// benchmark's directory and, in it, a copy of Bun as a volume.
func (m *bench) registerJob(id, driver string, silent bool) {
	job := nomad.NewBatchJob(id, id, "global", 50)
	job.Datacenters = []string{"*"}
	job.ParameterizedJob = &nomad.ParameterizedJobConfig{}
	group, run := nomad.NewTaskGroup("run", 1), nomad.NewTask("run", driver)
	bun, dir := m.bun, m.dir
	if driver == "exec" {
		dir = "/bench"
		bun = "/bench/bun"
		m.volume(id)
		run.VolumeMounts = []*nomad.VolumeMount{{Volume: &id, Destination: &dir}}
		group.Volumes = map[string]*nomad.VolumeRequest{id: {
			Name: id, Type: "host", Source: id, AttachmentMode: string(attachment), AccessMode: string(access),
		}}
	}
	if silent {
		run.LogConfig = &nomad.LogConfig{Disabled: new(true)}
	}
	run.Config = map[string]any{"command": "/bin/sh", "args": []string{
		"-c", fmt.Sprintf("exec %[1]s run %[2]s/%[3]s >%[2]s/%[4]s", bun, dir, filepath.Base(m.file), id),
	}}
	job.AddTaskGroup(group.AddTask(run))
	_, _, err := m.stack.Nomad.Jobs().Register(job, new(nomad.WriteOptions).WithContext(m.ctx))
	m.must(err)
	m.b.Cleanup(func() {
		if _, _, err := m.stack.Nomad.Jobs().Deregister(id, true, nil); err != nil {
			m.b.Error(err)
		}
	})
}

// How volumes are used.
const (
	attachment = nomad.HostVolumeAttachmentModeFilesystem
	access     = nomad.HostVolumeAccessModeSingleNodeMultiWriter
)

// volume makes the benchmark's directory, with Bun in it, known to Nomad.
func (m *bench) volume(name string) {
	binary, err := os.ReadFile(m.bun)
	m.must(err)
	m.must(os.WriteFile(filepath.Join(m.dir, "bun"), binary, 0o755))
	nodes, _, err := m.stack.Nomad.Nodes().List(new(nomad.QueryOptions).WithContext(m.ctx))
	m.must(err)
	answer, _, err := m.stack.Nomad.HostVolumes().Register(&nomad.HostVolumeRegisterRequest{Volume: &nomad.HostVolume{
		Namespace: nomad.DefaultNamespace, Name: name, NodeID: nodes[0].ID, NodePool: nodes[0].NodePool, HostPath: m.dir,
		RequestedCapabilities: []*nomad.HostVolumeCapability{{AttachmentMode: attachment, AccessMode: access}},
	}}, new(nomad.WriteOptions).WithContext(m.ctx))
	m.must(err)
	m.b.Cleanup(func() {
		request := &nomad.HostVolumeDeleteRequest{ID: answer.Volume.ID}
		if _, _, err := m.stack.Nomad.HostVolumes().Delete(request, nil); err != nil {
			m.b.Error(err)
		}
	})
}
