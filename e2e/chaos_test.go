// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/chaos"
)

// TestChaos uses sessions at random while parts of the system die, hang and
// misbehave. CHAOS_TIME makes it longer, CHAOS_SEED has what an earlier run had, and
// CHAOS_FAULTS, kinds with commas in between, has only some faults: see `make chaos`.
// CHAOS_LOG names a file for the logs of the system's parts.
func TestChaos(t *testing.T) {
	if system.stack == nil {
		t.Skip("it starts a system of its own, beside the one that the environment names")
	}
	o := chaos.Options{Seed: rand.Uint64N(1_000_000), Time: 40 * time.Second, Sessions: 20, Workers: 6, Progress: t.Logf, Log: os.Getenv("CHAOS_LOG")}
	var err error
	if text := os.Getenv("CHAOS_SEED"); text != "" {
		if o.Seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	if text := os.Getenv("CHAOS_TIME"); text != "" {
		if o.Time, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	if text := os.Getenv("CHAOS_FAULTS"); text != "" {
		o.Faults = strings.Split(text, ",")
	}
	const around = 8 * time.Minute // start, the last fault, the checks, and the end
	ctx, cancel := context.WithTimeoutCause(context.Background(), o.Time+around, errors.New("the chaos is not over in time"))
	defer cancel()
	report, err := chaos.Run(ctx, o)
	if err != nil {
		t.Fatalf("seed %d: %v", o.Seed, err)
	}
	t.Log(report)
	if n := len(report.Violations); n > 0 {
		t.Errorf("%d violations with seed %d", n, o.Seed)
	}
}
