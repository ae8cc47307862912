// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// cluster is a system of a test's own, with as many nodes and front-ends as that wants.
type cluster struct {
	*stack.Stack
	ctx  context.Context
	apis []*client.Client // one for each front-end, with the first key
}

// stopWithin bounds the end of a system.
const stopWithin = 3 * time.Minute

// startCluster starts a system, which ends with the test; before that, end does.
func startCluster(t *testing.T, most time.Duration, options stack.Options, end ...func(context.Context, *stack.Stack) error) *cluster {
	t.Helper()
	if system.stack == nil {
		t.Skip("it starts a system of its own, beside the one that the environment names")
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), most, fmt.Errorf("%s took over %s", t.Name(), most))
	t.Cleanup(cancel)
	s, err := stack.Start(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeoutCause(context.Background(), stopWithin, fmt.Errorf("the system is still there after %s", stopWithin))
		defer cancel()
		if t.Failed() {
			t.Log(s.AllLogs(40))
		}
		var errs []error
		for _, do := range end {
			errs = append(errs, do(ctx, s))
		}
		if err := errors.Join(append(errs, s.Stop(ctx))...); err != nil {
			t.Error(err)
		}
	})
	c := &cluster{Stack: s, ctx: ctx}
	if len(s.Keys) > 0 {
		for _, f := range s.Frontends {
			c.apis = append(c.apis, client.New(f.URL, s.Keys[0].Key))
		}
	}
	return c
}

// busyKey is a key for a system that many requests are sent to.
func busyKey(account string) []stack.Key {
	return []stack.Key{{Key: stack.NewKey(), Account: account, Plan: "enterprise", Limits: M{"requests": 1_000_000}}}
}
