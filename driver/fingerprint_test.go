// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/fsisolation"
	"github.com/hashicorp/nomad/plugins/drivers/testutils"
	"github.com/shoenig/test/must"

	"github.com/buntime/buntime/driver"
)

// first is the first fingerprint, which has to come at once.
func first(t *testing.T, p drivers.DriverPlugin) *drivers.Fingerprint {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	prints, err := p.Fingerprint(ctx)
	must.NoError(t, err)
	select {
	case found := <-prints:
		must.NoError(t, found.Err)
		return found
	case <-time.After(10 * time.Second):
		t.Fatal("no fingerprint")
		return nil
	}
}

func TestFingerprintUndetected(t *testing.T) {
	d := driver.New(t.Context(), hclog.NewNullLogger(), openFake)
	h := testutils.NewDriverHarness(t, d)
	defer disconnect(h)
	found := first(t, h)
	must.Eq(t, drivers.HealthStateUndetected, found.Health)
	must.Eq(t, "plugin has no configuration yet", found.HealthDescription)

	must.NoError(t, h.SetConfig(new(base.Config))) // no AgentConfig either
	found = first(t, h)
	must.Eq(t, drivers.HealthStateUndetected, found.Health)
	must.StrContains(t, found.HealthDescription, "no rootfs")
	must.MapEmpty(t, found.Attributes)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// hostAsRootfs is a plugin config that takes the host for a rootfs, with
// a program that prints a version.
func hostAsRootfs(t *testing.T) map[string]any {
	dir, err := os.MkdirTemp("", "buntime-bin-")
	must.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must.NoError(t, os.Chmod(dir, 0o755)) // the version is asked by nobody
	bun := filepath.Join(dir, "bun")
	must.NoError(t, os.WriteFile(bun, []byte("#!/bin/sh\n[ $(id -u) = 65534 ] && [ \"$*\" = --version ] && echo 1.4.5\n"), 0o755))
	return map[string]any{"rootfs": "/", "bun": bun, "init": "/bin/true"}
}

func TestFingerprintHealthy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	p := newPlugin(t, runtimes[0], hostAsRootfs(t))
	found := first(t, p)
	must.Eq(t, "Healthy", found.HealthDescription)
	must.Eq(t, drivers.HealthStateHealthy, found.Health)
	for name, want := range map[string]string{
		"driver.bun":          "true",
		"driver.bun.version":  "1.4.5",
		"driver.bun.rootfs":   "/",
		"driver.bun.sessions": "false",
		"driver.bun.userns":   "true",
		"driver.bun.seccomp":  "true",
		"driver.bun.loop":     "true",
		"driver.bun.ext4":     "true",
		"driver.bun.nftables": "true",
	} {
		must.MapContainsKey(t, found.Attributes, name)
		must.Eq(t, want, found.Attributes[name].GoString(), must.Sprint(name))
	}
	for _, name := range []string{"cgroup", "cgroup_kill", "cgroup_burst", "cgroup_memory_peak", "cgroup_swap", "overlayfs", "landlock"} {
		must.MapContainsKey(t, found.Attributes, "driver.bun."+name)
		t.Log(name, found.Attributes["driver.bun."+name].GoString())
	}
	// What is said of cgroups is what is mounted.
	layout, v2 := found.Attributes["driver.bun.cgroup"].GoString(), exists("/sys/fs/cgroup/cgroup.controllers")
	must.Eq(t, v2, layout == "v2", must.Sprint(layout))
	if v2 { // and every kernel that this runs on has all of these
		for _, name := range []string{"cgroup_kill", "cgroup_burst", "cgroup_memory_peak"} {
			must.Eq(t, "true", found.Attributes["driver.bun."+name].GoString(), must.Sprint(name))
		}
	}
}

// TestFingerprintGVisor wants gVisor told of where it is, and where it was
// asked for and is not; a node without is as healthy.
func TestFingerprintGVisor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	t.Setenv("PATH", t.TempDir())
	found := first(t, newPlugin(t, runtimes[0], hostAsRootfs(t)))
	must.Eq(t, "Healthy", found.HealthDescription)
	must.MapNotContainsKey(t, found.Attributes, "driver.bun.isolation.gvisor")

	config := hostAsRootfs(t)
	config["runsc"] = filepath.Join(filepath.Dir(config["bun"].(string)), "runsc")
	found = first(t, newPlugin(t, runtimes[0], config))
	must.Eq(t, drivers.HealthStateHealthy, found.Health)
	must.StrContains(t, found.HealthDescription, `isolation "gvisor" is not available: runsc `+config["runsc"].(string)+": not there")
	must.MapNotContainsKey(t, found.Attributes, "driver.bun.isolation.gvisor")

	text := "#!/bin/sh\n[ \"$*\" = --version ] && printf 'runsc version release-20260831.0\\nspec: 1.2.1\\n'\n"
	must.NoError(t, os.WriteFile(config["runsc"].(string), []byte(text), 0o755))
	found = first(t, newPlugin(t, runtimes[0], config))
	must.Eq(t, "Healthy", found.HealthDescription)
	must.Eq(t, "release-20260831.0", found.Attributes["driver.bun.isolation.gvisor"].GoString())
}

func TestFingerprintUnhealthy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	config := hostAsRootfs(t)
	config["init"], config["bun"] = "/none/init", "/none/bun"
	p := newPlugin(t, runtimes[0], config)
	found := first(t, p)
	must.Eq(t, drivers.HealthStateUnhealthy, found.Health)
	must.Eq(t, "bun /none/bun: not there (set rootfs in the plugin config); "+
		"init /none/init: not there (set init in the plugin config)", found.HealthDescription)
	must.MapNotContainsKey(t, found.Attributes, "driver.bun.version")

	r := runtimes[0]
	r.open = func(context.Context, *driver.Config, hclog.Logger) (driver.Runtime, error) {
		return nil, errors.New("state directory is read-only")
	}
	found = first(t, newPlugin(t, r, hostAsRootfs(t)))
	must.Eq(t, drivers.HealthStateUnhealthy, found.Health)
	must.Eq(t, "open runtime: state directory is read-only", found.HealthDescription)

	config = hostAsRootfs(t)
	must.NoError(t, os.WriteFile(config["bun"].(string), []byte("#!/bin/sh\necho bad CPU; exit 3\n"), 0o755))
	found = first(t, newPlugin(t, runtimes[0], config))
	must.Eq(t, drivers.HealthStateUnhealthy, found.Health)
	must.StrContains(t, found.HealthDescription, "/bun --version: exit status 3 (bad CPU)")
}

func TestFingerprintHonoursContext(t *testing.T) {
	d := driver.New(t.Context(), hclog.NewNullLogger(), openFake)
	ctx, cancel := context.WithCancel(t.Context())
	prints, err := d.Fingerprint(ctx)
	must.NoError(t, err)
	<-prints
	cancel()
	_, ok := <-prints
	must.False(t, ok)

	prints, err = d.Fingerprint(t.Context())
	must.NoError(t, err)
	must.NoError(t, d.Close())
	for range prints {
	}
}

func TestPluginInfoAndCapabilities(t *testing.T) {
	d := driver.New(t.Context(), hclog.NewNullLogger(), openFake)
	h := testutils.NewDriverHarness(t, d)
	defer disconnect(h)
	info, err := h.PluginInfo()
	must.NoError(t, err)
	must.Eq(t, "bun", info.Name)
	must.Eq(t, base.PluginTypeDriver, info.Type)
	caps, err := h.Capabilities()
	must.NoError(t, err)
	must.True(t, caps.SendSignals && caps.Exec && !caps.MustInitiateNetwork && !caps.DisableLogCollection)
	must.Eq(t, fsisolation.Image, caps.FSIsolation)
	must.True(t, caps.HasNetIsolationMode(drivers.NetIsolationModeHost))
	must.True(t, caps.HasNetIsolationMode(drivers.NetIsolationModeGroup))
}
