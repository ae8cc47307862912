// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/stack"
)

// TestMCP: the official TypeScript client of the Model Context Protocol, on both
// transports.
func TestMCP(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 3*time.Minute)
	p := newMCPProject(t, ctx, "client", "tour", "wire")
	for _, kind := range []string{"http", "stdio"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p.run(t, nil, "tour", kind)
		})
	}
	t.Run("wire", func(t *testing.T) {
		t.Parallel()
		p.run(t, nil, "wire")
	})
	t.Run("the command of docs/mcp.md", func(t *testing.T) {
		t.Parallel()
		doc, err := os.ReadFile(filepath.Join(p.root, "docs/mcp.md"))
		if err != nil {
			t.Fatal(err)
		}
		blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(doc, -1)
		equal(t, "commands", len(blocks), 1)
		cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", string(blocks[0][1]))
		cmd.Env = append(os.Environ(), "BUNTIME_URL="+system.base, "BUNTIME_KEY="+system.paid)
		out, err := cmd.CombinedOutput()
		made := regexp.MustCompile(`pass sessionId (ses_[a-z0-9]+)`).FindSubmatch(out)
		if err != nil || made == nil || !bytes.Contains(out, []byte(`"text":"42\n[exit code 0`)) {
			t.Fatalf("%v: %s", err, out)
		}
		dropLater(t, paid(), string(made[1]))
	})
}

// mcp is a conversation at two front-ends.
func (c *cluster) mcp(t *testing.T) {
	p := newMCPProject(t, c.ctx, "client", "nodes")
	p.run(t, []string{"BUNTIME_BASE_URL=" + c.Frontends[0].URL, "BUNTIME_SECOND_URL=" + c.Frontends[1].URL, "BUNTIME_API_KEY=" + c.Keys[0].Key}, "nodes")
}

// mcpProject is a folder with the client and programs that use it.
type mcpProject struct {
	ctx       context.Context
	root, dir string
	bun       string
}

func newMCPProject(t *testing.T, ctx context.Context, programs ...string) *mcpProject {
	t.Helper()
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	p := &mcpProject{ctx: ctx, root: root, dir: t.TempDir()}
	p.bun = p.tool(t, "e2e/tools/get", "bun")
	if err := os.Symlink(filepath.Join(p.tool(t, "e2e/tools/mcp/install"), "node_modules"), filepath.Join(p.dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	for _, name := range programs {
		text, err := os.ReadFile(filepath.Join(root, "e2e/testdata/mcp", name+".ts"))
		if err == nil {
			err = os.WriteFile(filepath.Join(p.dir, name+".ts"), text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// tool is what a script prints.
func (p *mcpProject) tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(p.ctx, filepath.Join(p.root, name), args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

// run runs a program, which has to end well, and deletes the sessions of which it tells.
// env is where another system than the usual is.
func (p *mcpProject) run(t *testing.T, env []string, program string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(p.ctx, p.bun, append([]string{"run", program + ".ts"}, args...)...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "BUNTIME_BASE_URL="+system.base, "BUNTIME_API_KEY="+system.paid, "BUNTIME_OTHER_KEY="+system.enterprise,
		"BUNTIME_COMMAND="+filepath.Join(p.root, "out/bin/buntime"))
	cmd.Env = append(cmd.Env, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if env == nil {
		for _, made := range madeSession.FindAllStringSubmatch(stdout.String(), -1) {
			dropLater(t, paid(), made[1])
		}
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", program, err, stdout.Bytes(), stderr.Bytes())
	}
}
