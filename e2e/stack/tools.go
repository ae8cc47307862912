// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// tools are the programs and files that a stack is made of.
type tools struct {
	nomad, consul string // binaries
	bun           string // binary of the host
	runsc         string // gVisor's binary
	plugins       string // folder with the driver plugin
	init          string // buntime-init
	frontend      string // binary
	rootfs        string // directory
	cni           string // folder with CNI's plugins
}

// pluginName is the file name of the driver plugin; Nomad finds the plugin's
// configuration by it.
const pluginName = "nomad-driver-bun"

// restorerName is the file name of what the plugin has restore workspaces, which lies
// beside buntime-init.
const restorerName = "buntime-restorer"

// findTools looks the parts up as `make deps build` left them, what is ours in out.
func findTools(ctx context.Context, out string) (tools, error) {
	root, err := Root()
	if err != nil {
		return tools{}, err
	}
	if out == "" {
		out = filepath.Join(root, "out")
	}
	t := tools{
		plugins:  filepath.Join(out, "plugins"),
		init:     filepath.Join(out, "libexec/buntime-init"),
		frontend: filepath.Join(out, "bin/buntime-frontend"),
	}
	for _, path := range []string{filepath.Join(t.plugins, pluginName), t.init, filepath.Join(filepath.Dir(t.init), restorerName), t.frontend} {
		if _, err := os.Stat(path); err != nil {
			return tools{}, fmt.Errorf("find what `make build` makes: %w", err)
		}
	}
	for _, tool := range []struct {
		path *string
		args []string
	}{
		{&t.nomad, []string{"e2e/tools/get", "nomad"}},
		{&t.consul, []string{"e2e/tools/get", "consul"}},
		{&t.cni, []string{"e2e/tools/get", "cni"}},
		{&t.runsc, []string{"e2e/tools/get", "runsc"}},
		{&t.bun, []string{"e2e/tools/get", "bun"}},
		{&t.rootfs, []string{"driver/sandbox/rootfs/build", ""}},
	} {
		if tool.args[1] == "" {
			tool.args[1] = t.bun
		}
		if *tool.path, err = output(ctx, root, tool.args...); err != nil {
			return tools{}, err
		}
	}
	return t, nil
}

// Root is the root of the work tree that the working directory is in.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte("module github.com/buntime/buntime\n")) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find work tree: no go.mod of buntime above the working directory")
		}
		dir = parent
	}
}

// output runs a command of the work tree and returns the one line it prints.
func output(ctx context.Context, root string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(root, args[0]), args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}
