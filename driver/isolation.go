// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// What a task's `isolation` may be: the host's kernel, narrowed, or gVisor's.
const (
	IsolationProcess = "process"
	IsolationGVisor  = "gvisor"
)

// runscVersionTimeout is for `runsc --version`, which has to be read from the
// disk at first.
const runscVersionTimeout = 10 * time.Second

// errNoRunsc says that isolation gvisor cannot be had, and where it can.
var errNoRunsc = errors.New(`this node has no runsc: install gVisor, or name its runsc in the plugin config; the constraint ` +
	`{ attribute = "${attr.driver.bun.isolation.gvisor}", operator = "is_set" } in the job places it where there is one`)

// runscVersion runs `runsc --version` once for each binary it sees.
type runscVersion struct {
	mu      sync.Mutex
	seen    os.FileInfo
	version string
}

// read returns the version, errNoRunsc where there is no runsc and none was
// asked for.
func (r *runscVersion) read(ctx context.Context, config *Config) (string, error) {
	if config.Runsc == "" {
		return "", errNoRunsc
	}
	if err := executable(config.Runsc); err != nil {
		return "", fmt.Errorf("runsc %s: %w", config.Runsc, err)
	}
	info, err := os.Stat(config.Runsc)
	if err != nil {
		return "", fmt.Errorf("runsc: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen != nil && os.SameFile(r.seen, info) && r.seen.ModTime().Equal(info.ModTime()) {
		return r.version, nil
	}
	ctx, cancel := context.WithTimeout(ctx, runscVersionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, config.Runsc, "--version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("run %s --version: %w (%s)", config.Runsc, err, or(strings.TrimSpace(string(out)), "no output"))
	}
	first, _, _ := strings.Cut(string(out), "\n") // "runsc version release-20260831.0"
	version := strings.TrimSpace(strings.TrimPrefix(first, "runsc version"))
	if version == "" {
		return "", fmt.Errorf("run %s --version: it told none", config.Runsc)
	}
	r.seen, r.version = info, version
	return version, nil
}
