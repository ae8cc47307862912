// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// TestPackage installs a Debian package, which BUNTIME_DEB names, into an empty root and
// runs what is in it: `make dist-test`.
func TestPackage(t *testing.T) {
	deb := os.Getenv("BUNTIME_DEB")
	if deb == "" {
		t.Skip("BUNTIME_DEB names no package")
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), 3*time.Minute, errors.New("the package took over 3 minutes"))
	t.Cleanup(cancel)
	root := t.TempDir()
	run := func(env []string, name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(os.Environ(), env...)
		cmd.Dir = filepath.Dir(deb)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	run(nil, "sha256sum", "-c", "SHA256SUMS")
	for _, dir := range []string{"var/lib/dpkg/updates", "var/lib/dpkg/info"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	run(nil, "dpkg", "--root="+root, "--force-script-chrootless", "--force-depends", "--log=/dev/null", "-i", deb)

	frontend := filepath.Join(root, "opt/buntime/bin/buntime-frontend")
	version := strings.Split(filepath.Base(deb), "_")[1]
	equal(t, "version", run(nil, frontend, "-version"), "buntime-frontend "+version+"\n")
	config := filepath.Join(root, "etc/buntime/frontend.json")
	contains(t, "check of the configuration", run([]string{"BUNTIME_FRONTEND_NODE_SECRET=0123456789abcdef"}, frontend, "-config", config, "-check"), "node_secret")
	for _, file := range []string{
		"usr/share/doc/buntime/operation.md", "usr/share/doc/buntime/licences/github.com/hashicorp/nomad/LICENSE",
		"opt/buntime/share/examples/client.hcl", "opt/buntime/share/jobs/frontend.nomad.hcl", "usr/share/bash-completion/completions/buntime",
		"usr/bin/buntime",
	} {
		if _, err := os.Lstat(filepath.Join(root, file)); err != nil {
			t.Error(err)
		}
	}

	// systemd itself has to be content with the unit, where there is a systemd-analyze.
	if analyze, err := exec.LookPath("systemd-analyze"); err == nil {
		unit := filepath.Join(root, "lib/systemd/system/buntime-frontend.service")
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		here := filepath.Join(t.TempDir(), "buntime-frontend.service")
		if err := os.WriteFile(here, []byte(strings.ReplaceAll(string(text), "=/opt/", "="+root+"/opt/")), 0o644); err != nil {
			t.Fatal(err)
		}
		run(nil, analyze, "verify", "--man=no", "--recursive-errors=no", here)
		run(nil, analyze, "security", "--offline=yes", "--no-pager", "--threshold=15", here)
	}

	s, err := stack.Start(ctx, stack.Options{
		Out:  filepath.Join(root, "opt/buntime"),
		Keys: []stack.Key{{Key: stack.NewKey(), Account: "package", Plan: "enterprise"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stopCtx, cancel := context.WithTimeoutCause(context.Background(), 2*time.Minute, errors.New("the system is still there after 2 minutes"))
		defer cancel()
		if err := s.Stop(stopCtx); err != nil {
			t.Error(err)
		}
	})
	session := createSession(t, ctx, client.New(s.URL, s.Keys[0].Key), nil)
	equal(t, "output", session.print(`await Bun.write("file", "kept"); console.log(6 * 7)`), "42\n")
	status(t, session.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	equal(t, "file", session.read("file"), "kept")
}
