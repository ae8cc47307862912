// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRootImage runs sessions whose root is an image file, over a restart of the
// plugin, and wants nothing of it left in the end.
func TestRootImage(t *testing.T) {
	image := tool(t, "driver/sandbox/rootfs/build", "--image", tool(t, "e2e/tools/get", "bun"))
	before := len(devicesOf(t, image))
	t.Cleanup(func() { // after the fixture's own
		// The kernel unbinds the device when the last mount has been taken apart.
		for deadline := time.Now().Add(30 * time.Second); len(devicesOf(t, image)) > before; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("image is still bound to %v", devicesOf(t, image))
				return
			}
		}
	})
	f := newFixtureOf(t, fixtureOptions{rootfs: image})
	bound := func() []string {
		t.Helper()
		devices := devicesOf(t, image)
		if before == 0 && len(devices) != 1 {
			t.Errorf("image is bound to %v, want one device", devices)
		}
		return devices
	}
	r := f.run(t, map[string]any{"command": "stat -c '%u:%g' /etc/passwd /workspace; grep ' / ' /proc/self/mountinfo; touch /usr/x; bun --version"})
	if !strings.HasPrefix(r.Stdout, "0:0\n1000:1000\n") || !strings.Contains(r.Stdout, " ro,nosuid,nodev,") || !strings.Contains(r.Stderr, "Read-only file system") || r.ExitCode != 0 {
		t.Errorf("%+v", r)
	}
	first := bound()

	// A second plugin over the same state finds the device and shares it.
	f.restart(t)
	if r := f.run(t, map[string]any{"code": "console.log(await Bun.file('/etc/machine-id').exists())"}); r.Stdout != "true\n" {
		t.Errorf("after a restart: %+v", r)
	}
	task := *f.task
	task.ID, task.AllocID, task.API, task.Preview = "alloc/session/2", task.AllocID+"-2", freeAddress(t), freeAddress(t)
	second, err := f.agent.Start(t.Context(), &task)
	if err != nil {
		t.Fatal(err)
	}
	if again := bound(); before == 0 && len(first) == 1 && len(again) == 1 && first[0] != again[0] {
		t.Errorf("bound to %v, then to %v", first, again)
	}
	if err := second.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
}

// devicesOf lists the loop devices that image is bound to.
func devicesOf(t *testing.T, image string) []string {
	t.Helper()
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	var devices []string
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == image {
			devices = append(devices, strings.Split(file, "/")[3])
		}
	}
	return devices
}

// BenchmarkStart is what the start of a sandbox takes until its init serves,
// from a directory and from an image of it.
func BenchmarkStart(b *testing.B) {
	bun := tool(b, "e2e/tools/get", "bun")
	for _, kind := range []struct {
		name string
		args []string
	}{{"directory", []string{bun}}, {"image", []string{"--image", bun}}} {
		b.Run(kind.name, func(b *testing.B) {
			f := newFixtureOf(b, fixtureOptions{rootfs: tool(b, "driver/sandbox/rootfs/build", kind.args...)})
			for n := 0; b.Loop(); n++ {
				task := *f.task
				task.Session = nil
				task.ID, task.AllocID = "bench/"+kind.name, f.task.AllocID+"-bench"
				task.Argv, task.Stdout, task.Stderr = []string{"/bin/true"}, os.DevNull, os.DevNull
				task.Dir = "/"
				task.API, task.Preview = "", ""
				i, err := f.agent.Start(b.Context(), &task)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := i.Destroy(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
