// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bufio"
	"context"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// runnerMemory is what a runner that waits holds by itself, in bytes: 2.4 MB, its
	// page tables and what the kernel holds for its threads.
	runnerMemory = 4 << 20
	// sparePart of the node's memory is what spare runners may have together, unless
	// the configuration says how much.
	sparePart = 20
	// shortPart of the node's memory has to be available, or it is short.
	shortPart = 10
)

// stock is what the sessions of a node share to have runners ready. One in each
// session is nobody's business. All others are spare: there are so many as the node
// has memory for.
type stock struct {
	most  int64         // spare ones that there may be
	turns chan struct{} // has one in it for each that is being started ahead of need
	short func() bool   // tells whether the node is short of memory

	spare atomic.Int64
	rush  rush
}

// rush is whether more executions begin on the node than its processors can run at once.
// Then no session's used runners are replaced, for as long as nodePatience: of a hundred
// sessions that come together none is to wait for what others will need later.
type rush struct {
	mu    sync.Mutex
	level float64 // executions begun, less those of some time ago
	at    time.Time
}

const (
	// rushWindow is in what time the level falls to 1/e, and rushLevel how high it has to
	// be for each processor. An execution takes some 10 ms of one, with all that there is
	// around it.
	rushWindow   = 100 * time.Millisecond
	rushLevel    = 6
	nodePatience = 500 * time.Millisecond
)

// begun notes that an execution begins.
func (r *rush) begun(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settle(now)
	r.level++
}

// on says whether it is.
func (r *rush) on(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settle(now)
	return r.level > rushLevel*float64(runtime.GOMAXPROCS(0))
}

// settle is called with mu held.
func (r *rush) settle(now time.Time) {
	if past := now.Sub(r.at); past > 0 {
		r.level *= math.Exp(-float64(past) / float64(rushWindow))
		r.at = now
	}
}

// newStock makes a stock whose spare runners hold so many bytes at most; negative is
// sparePart of the node's memory.
func newStock(bytes int64) *stock {
	if total, _ := nodeMemory(); bytes < 0 {
		bytes = total / sparePart
	}
	return &stock{
		most: bytes / runnerMemory,
		// Executions come first: what is not needed yet has half of the cores at most.
		turns: make(chan struct{}, max(1, runtime.NumCPU()/2)),
		short: memoryShort,
	}
}

// reserve says whether there may be one more spare runner, which is there until release.
func (k *stock) reserve() bool {
	if k.spare.Add(1) > k.most || k.short() {
		k.release()
		return false
	}
	return true
}

func (k *stock) release() { k.spare.Add(-1) }

// turn waits until a runner that nobody waits for may be started.
func (k *stock) turn(ctx context.Context) (done func(), err error) {
	select {
	case k.turns <- struct{}{}:
		return func() { <-k.turns }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func memoryShort() bool {
	total, available := nodeMemory()
	return available < total/shortPart
}

// nodeMemory reads how much memory the node has and how much of it is available, in
// bytes; zeros where the kernel does not tell.
func nodeMemory() (total, available int64) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	defer f.Close()
	read := func(line, name string, to *int64) {
		if text, ok := strings.CutPrefix(line, name); ok {
			kb, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(text, "kB")), 10, 64)
			*to = kb << 10
		}
	}
	for lines := bufio.NewScanner(f); lines.Scan() && (total == 0 || available == 0); {
		read(lines.Text(), "MemTotal:", &total)
		read(lines.Text(), "MemAvailable:", &available)
	}
	return total, available
}
