// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package e2e drives the public HTTP API of a running system: Consul, Nomad,
// the driver and the front-end, all of them real. What the tests want is what
// the API's documentation promises; they know nothing of how it is done.
//
// One system serves the whole package. With BUNTIME_E2E_URL in the environment
// it is one that runs already (see fromEnvironment), else it is started for
// the tests and has to leave nothing behind; BUNTIME_E2E_LOG names a file for
// the logs of its parts.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// system is the running system that every test drives.
var system struct {
	base          string // URL of the front-end
	previewDomain string // with its port
	consul, nomad string // URLs
	// Keys of three accounts. All but tests of the plans use the third.
	paid, free, enterprise string
	// stack is nil where the system was there before.
	stack *stack.Stack
}

// shared has the connections of all tests.
var shared *client.Client

func paid() *client.Client       { return shared.WithKey(system.paid) }
func free() *client.Client       { return shared.WithKey(system.free) }
func enterprise() *client.Client { return shared.WithKey(system.enterprise) }

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	if url := os.Getenv("BUNTIME_E2E_URL"); url != "" {
		if err := fromEnvironment(url); err != nil {
			return 1, err
		}
		return m.Run(), nil
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), 5*time.Minute, errors.New("the system is not up after 5 minutes"))
	defer cancel()
	system.paid, system.free, system.enterprise = stack.NewKey(), stack.NewKey(), stack.NewKey()
	s, err := stack.Start(ctx, stack.Options{Keys: keySettings(), SmallChroot: true, Frontend: M{
		"shutdown_timeout": "2s", // tests of a gentle end do not wait for long executions
	}})
	if err != nil {
		return 1, err
	}
	system.stack = s
	system.base, system.previewDomain, system.consul, system.nomad = s.URL, s.PreviewDomain, s.ConsulAddr, s.NomadAddr
	shared = client.New(system.base, "")

	code := m.Run()
	err = errors.Join(tearDown(s), secretsKept(s))
	if path := os.Getenv("BUNTIME_E2E_LOG"); path != "" {
		err = errors.Join(err, copyLogs(s, path))
	}
	if code != 0 || err != nil {
		for _, part := range []string{"front-end", "nomad-client"} {
			fmt.Fprintf(os.Stderr, "==> end of the log of %s\n%s", part, s.Logs(part, 60))
		}
	}
	stopCtx, cancel := context.WithTimeoutCause(context.Background(), 3*time.Minute, errors.New("the system is still there after 3 minutes"))
	defer cancel()
	return code, errors.Join(err, s.Stop(stopCtx))
}

// keySettings are the plans as they are, but for the requests a minute: these
// tests make more.
func keySettings() []stack.Key {
	const many = 1_000_000
	return []stack.Key{
		{Key: system.paid, Account: "paid", Plan: "paid", Limits: M{"requests": many}},
		{Key: system.free, Account: "free", Plan: "free", Limits: M{"requests": many}},
		{Key: system.enterprise, Account: "enterprise", Plan: "enterprise", Limits: M{"requests": many, "sessions": 1000}},
	}
}

// tearDown wants nothing on the machine of all the sessions that the tests
// made and deleted, with the system still running.
func tearDown(s *stack.Stack) error {
	const patience = 90 * time.Second // a minute for what a crash left, and a look at it
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		left, err := s.Leftovers(ctx)
		left = slices.DeleteFunc(left, func(what string) bool {
			return strings.Contains(what, "/workspaces/ready/") // kept for sessions to come
		})
		if err == nil && len(left) == 0 {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("left of deleted sessions after %v: %w\n\t%s", patience, errors.Join(err, ctx.Err()), strings.Join(left, "\n\t"))
		}
	}
}

func copyLogs(s *stack.Stack, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(s.CopyLogs(f), f.Close())
}

// fromEnvironment takes the rest of a running system's description from the
// environment: BUNTIME_E2E_PREVIEW_DOMAIN, BUNTIME_E2E_CONSUL and
// BUNTIME_E2E_NOMAD (URLs), BUNTIME_E2E_PAID, BUNTIME_E2E_FREE and
// BUNTIME_E2E_ENTERPRISE (keys).
func fromEnvironment(url string) error {
	system.base = url
	for name, value := range map[string]*string{
		"PREVIEW_DOMAIN": &system.previewDomain, "CONSUL": &system.consul, "NOMAD": &system.nomad,
		"PAID": &system.paid, "FREE": &system.free, "ENTERPRISE": &system.enterprise,
	} {
		*value = os.Getenv("BUNTIME_E2E_" + name)
		if *value == "" {
			return fmt.Errorf("BUNTIME_E2E_URL is set, but BUNTIME_E2E_%s is not", name)
		}
	}
	shared = client.New(system.base, "")
	return nil
}
