// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"

	"github.com/buntime/buntime/driver/sandbox/rootfs"
)

// fingerprintPeriod is Nomad's own drivers'.
const fingerprintPeriod = 30 * time.Second

// bunVersionTimeout is for `bun --version`, which takes 70 ms when the binary
// has to be read from the disk.
const bunVersionTimeout = 10 * time.Second

// Fingerprint describes this node at once and then periodically, until ctx or
// the plugin ends.
func (d *Driver) Fingerprint(ctx context.Context) (<-chan *drivers.Fingerprint, error) {
	prints := make(chan *drivers.Fingerprint)
	d.attend(ctx)
	go func() {
		defer close(prints)
		ticker := time.NewTicker(fingerprintPeriod)
		defer ticker.Stop()
		for {
			select {
			case prints <- d.fingerprint(ctx):
			case <-ctx.Done():
				return
			case <-d.ctx.Done():
				return
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			case <-d.ctx.Done():
				return
			}
		}
	}()
	return prints, nil
}

// fingerprint looks at the node. It is undetected where nobody has set it up
// for the driver, and unhealthy where something is missing that must be there;
// the description says what to do.
func (d *Driver) fingerprint(ctx context.Context) *drivers.Fingerprint {
	config, err := d.settings()
	switch {
	case err != nil:
		return undetected(err.Error())
	case os.Geteuid() != 0:
		return undetected(drivers.DriverRequiresRootMessage)
	case config.Rootfs == "":
		return undetected(`plugin config has no rootfs: set it to the directory or image of the sandboxes' root file system`)
	}
	node := lookAtKernel(ctx)
	found := &drivers.Fingerprint{
		Attributes: node.attributes(),
		Health:     drivers.HealthStateHealthy,
	}
	set := func(name string, value *pstructs.Attribute) { found.Attributes["driver."+Name+name] = value }
	set("", pstructs.NewBoolAttribute(true))
	set(".rootfs", pstructs.NewStringAttribute(config.Rootfs))
	set(".sessions", pstructs.NewBoolAttribute(len(config.NodeSecret) != 0))

	missing := node.missing()
	if version, err := d.bun.read(ctx, config); err != nil {
		missing = append(missing, err.Error())
	} else {
		set(".version", pstructs.NewStringAttribute(version))
	}
	if err := executable(config.Init); err != nil {
		missing = append(missing, fmt.Sprintf("init %s: %v (set init in the plugin config)", config.Init, err))
	}
	if len(missing) == 0 {
		if _, err := d.runtimeOf(); err != nil {
			missing = append(missing, err.Error())
		}
	}
	found.HealthDescription = drivers.DriverHealthy
	if version, err := d.runsc.read(ctx, config); err == nil {
		set(".isolation."+IsolationGVisor, pstructs.NewStringAttribute(version))
	} else if config.RunscGiven {
		// The node is healthy for all other tasks, but somebody wanted this.
		found.HealthDescription += fmt.Sprintf("; isolation %q is not available: %v", IsolationGVisor, err)
	}
	if len(missing) != 0 {
		found.Health = drivers.HealthStateUnhealthy
		found.HealthDescription = strings.Join(missing, "; ")
	}
	return found
}

func undetected(why string) *drivers.Fingerprint {
	return &drivers.Fingerprint{Health: drivers.HealthStateUndetected, HealthDescription: why}
}

// executable says why a host path cannot be run.
func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("not there")
	case err != nil:
		return err
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return errors.New("not executable")
	}
	return nil
}

// bunVersion runs a rootfs's `bun --version` once for each binary, or image with
// one, that it sees.
type bunVersion struct {
	mu      sync.Mutex
	seen    os.FileInfo
	version string
}

func (b *bunVersion) read(ctx context.Context, config *Config) (string, error) {
	path := filepath.Join(config.Rootfs, config.Bun)
	source, image := path, rootfs.IsImage(config.Rootfs)
	if image {
		source = config.Rootfs
	} else if err := executable(path); err != nil {
		return "", fmt.Errorf("bun %s: %w (set rootfs in the plugin config)", path, err)
	}
	info, err := os.Stat(source)
	if err != nil {
		return "", fmt.Errorf("bun: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen != nil && os.SameFile(b.seen, info) && b.seen.ModTime().Equal(info.ModTime()) {
		return b.version, nil
	}
	dir := config.Rootfs
	if image {
		opened, err := rootfs.Open(config.Rootfs)
		if err != nil {
			return "", err
		}
		defer opened.Close()
		dir = opened.Dir()
		if err := executable(filepath.Join(dir, config.Bun)); err != nil {
			return "", fmt.Errorf("bun %s: %w (set rootfs in the plugin config)", path, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, bunVersionTimeout)
	defer cancel()
	// Inside the rootfs, whose libraries it needs, and as nobody: this is the
	// only time that anything of it runs outside a sandbox.
	cmd := exec.CommandContext(ctx, config.Bun, "--version")
	cmd.Dir = "/"
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot:     dir,
		Credential: &syscall.Credential{Uid: 65534, Gid: 65534},
	}
	out, err := cmd.CombinedOutput()
	said := strings.TrimSpace(string(out))
	if err != nil {
		return "", fmt.Errorf("run %s --version: %w (%s)", path, err, or(said, "no output"))
	}
	b.seen, b.version = info, said
	return b.version, nil
}
