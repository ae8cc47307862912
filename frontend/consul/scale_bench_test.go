// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package consul_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sync/errgroup"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/snapshot"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/consul"
	"github.com/buntime/buntime/frontend/frontendtest"
	"github.com/buntime/buntime/frontend/testserver"
)

// scale is how many sessions there are in BenchmarkScale. One in a hundred is awake.
func scale(b *testing.B) int {
	text := os.Getenv("SCALE")
	if text == "" {
		return 10_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1000 {
		b.Fatalf("SCALE is a number from 1000, not %q", text)
	}
	return n
}

// BenchmarkScale measures what many sessions ask of Consul and of a front-end, with
// records as the front-end and the nodes write them. It prints a table and wants
// -benchtime 1x. docs/scale.md says what it means.
func BenchmarkScale(b *testing.B) {
	b.ReportMetric(0, "ns/op") // leaves it out
	w := newCrowd(b)
	w.head()
	w.rates("create, no records yet", w.create)
	before := w.consul()
	sum := w.fill(scale(b))
	w.memory(before, sum)
	w.backup()
	w.rates("create, all records there", w.create)
	w.rates("update", w.update)
	w.singles()
	w.lists()
	w.watches()
	w.rounds()
}

// crowd is a Store with many sessions.
type crowd struct {
	b         *testing.B
	store     *consul.Store
	kv        *api.KV
	address   string
	pid       int
	dir       string
	service   *frontend.Service
	scheduler *frontendtest.Scheduler
	ids       []string // of what is stored
	updated   []*frontend.Session
}

func newCrowd(b *testing.B) *crowd {
	w := &crowd{b: b, dir: b.TempDir()}
	if os.Getenv("SCALE_MEMORY") != "" { // Consul without a disk
		w.address, w.pid = testserver.ConsulProcess(b, "-dev", `-hcl=limits { http_max_conns_per_client = -1 }`)
	} else {
		w.address, w.pid = testserver.ConsulOnDisk(b, w.dir)
	}
	var err error
	w.store, err = consul.NewStore(consul.Config{Address: w.address, Prefix: prefix})
	w.must(err)
	b.Cleanup(w.store.Close)
	client, err := api.NewClient(&api.Config{Address: w.address})
	w.must(err)
	w.kv = client.KV()
	w.scheduler = &frontendtest.Scheduler{}
	w.service = frontend.NewService(w.store, w.scheduler, frontendtest.Agent{}, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	return w
}

func (w *crowd) must(err error) {
	if err != nil {
		w.b.Helper()
		w.b.Fatal(err)
	}
}

func (w *crowd) head() {
	load, err := os.ReadFile("/proc/loadavg")
	w.must(err)
	fmt.Printf("\n%d sessions, %d cores, load before: %s", scale(w.b), runtime.NumCPU(), load)
}

func (w *crowd) say(what, format string, args ...any) {
	fmt.Printf("%-52s %s\n", what, fmt.Sprintf(format, args...))
}

// many does something n times, some at a time, and says how long each took.
func (w *crowd) many(n, atATime int, do func(i int) error) (took []time.Duration, all time.Duration) {
	w.b.Helper()
	took = make([]time.Duration, n)
	var work errgroup.Group
	work.SetLimit(atATime)
	begin := time.Now()
	for i := range n {
		work.Go(func() error {
			begin := time.Now()
			defer func() { took[i] = time.Since(begin) }()
			return do(i)
		})
	}
	w.must(work.Wait())
	return took, time.Since(begin)
}

func (w *crowd) times(what string, n, atATime int, do func(i int) error) {
	w.b.Helper()
	took, all := w.many(n, atATime, do)
	slices.Sort(took)
	at := func(p int) float64 { return float64(took[min(n-1, n*p/100)].Microseconds()) / 1000 }
	w.say(fmt.Sprintf("%s, %d at a time", what, atATime), "n %d  p50 %.2f  p95 %.2f  p99 %.2f  max %.2f ms  %.0f/s", n, at(50), at(95), at(99), at(100), float64(n)/all.Seconds())
}

func (w *crowd) rates(what string, do func(i int) error) {
	for _, c := range []struct{ atATime, n int }{{1, 200}, {16, 1000}, {64, 1000}} {
		w.updated = nil
		w.times(what, c.n, c.atATime, do)
	}
}

// create stores a record as Create does; what it writes is not a part of the crowd.
func (w *crowd) create(i int) error {
	return w.store.Create(w.b.Context(), asleep("rate-"+strconv.Itoa(i), time.Hour))
}

// update changes the records of the crowd, each once.
func (w *crowd) update(i int) error {
	r, err := w.store.Get(w.b.Context(), w.ids[i])
	if err != nil {
		return err
	}
	n := *r
	n.LastActive = time.Now().UTC()
	return w.store.Update(w.b.Context(), &n)
}

// asleep is the record of a session that sleeps.
func asleep(account string, ttl time.Duration) *frontend.Session {
	s := frontendtest.Session(account)
	s.State, s.Epoch, s.Expires = frontend.StateDeepSleep, 2, s.Created.Add(ttl)
	s.Metadata = json.RawMessage(`{"user":"u-1842","conversation":"b7c1e0f2-6a0f-4a53-9d7e-0d3f0a6f7c11","kind":"analysis"}`)
	s.Files, s.Checkpoint = 12, s.Created
	return s
}

func claimOf(id string) claim.Claim {
	return claim.Claim{
		Session: id, Epoch: 2, Alloc: "0a9c8f0c-9c53-4d1b-8f5e-0d8a9b1c2d3e", Node: "7b1c2d3e-0a9c-4d1b-8f5e-9c530d8a0c8f",
		API: "10.20.30.40:24817", Preview: "10.20.30.40:24818",
	}
}

// The accounts: one with up to 10,000 sessions, one with 100, the others with 10.
func accountOf(i, n int) string {
	big := min(10_000, n/2)
	switch {
	case i < big:
		return "big"
	case i < big+100:
		return "middle"
	}
	return "small-" + strconv.Itoa(i/10)
}

// fill stores n sessions and returns the bytes of their keys and values. Records and
// index entries go through the Store, what nodes write and receipts past it.
func (w *crowd) fill(n int) (bytes int64) {
	w.ids = make([]string, n)
	var written atomic.Int64
	begin := time.Now()
	w.many(n, 64, func(i int) error {
		r := asleep(accountOf(i, n), 24*time.Hour)
		if i%100 == 99 {
			r.State, r.Epoch = frontend.StateActive, 1
			r.Claim = claimOf(r.ID) // of another epoch: there is no node to ask
			w.scheduler.Add(r.ID, false)
		}
		w.ids[i] = r.ID
		record, err := json.Marshal(r)
		if err != nil {
			return err
		}
		written.Add(int64(len(record)) + 230) // and its entry, and the names of both
		return w.store.Create(w.b.Context(), r)
	})
	w.say("fill: records", "%d in %.1f s", n, time.Since(begin).Seconds())
	const some = 12
	begin = time.Now()
	w.many((n+some-1)/some, 16, func(i int) error {
		var ops api.KVTxnOps
		for _, id := range w.ids[i*some : min(n, (i+1)*some)] {
			more, err := traces(id)
			if err != nil {
				return err
			}
			ops = append(ops, more...)
		}
		for _, op := range ops {
			written.Add(int64(len(op.Key) + len(op.Value)))
		}
		ok, answer, _, err := w.kv.Txn(ops, nil)
		if err == nil && !ok {
			err = fmt.Errorf("refused: %v", answer.Errors)
		}
		return err
	})
	w.say("fill: claims, rests, keys, receipts", "%.1f s", time.Since(begin).Seconds())
	return written.Load()
}

// traces are what the nodes of a session have written, and its receipt.
func traces(id string) (ops api.KVTxnOps, err error) {
	now := time.Now().UTC()
	for _, kv := range []struct {
		key   string
		value any
	}{
		{claim.Key(prefix, id, 2), claimOf(id)},
		{claim.RestKey(prefix, id, 2), claim.Rest{
			Session: id, Epoch: 2, Alloc: claimOf(id).Alloc, Files: 12, LastActive: now, Asleep: true,
			Snapshot: snapshot.Pointer{
				Epoch: 2, Serial: 3, Attempt: "k3v9c1x7", Digest: strings.Repeat("0123456789abcdef", 4), Length: 12345,
				Size: 1 << 30, Stored: 1 << 20, Taken: now, Expires: now.Add(24 * time.Hour),
			},
		}},
		{claim.DataKey(prefix, id), strings.Repeat("k", 44)},
		{prefix + "/receipts/" + strings.Repeat("f", 40) + id, frontend.Receipt{
			Request: strings.Repeat("0", 64), Ends: now.Add(24 * time.Hour), Until: now, Answer: json.RawMessage(`{"id":"` + id + `"}`),
		}},
		{fmt.Sprintf("%s/receipts-end/%d/%s%s", prefix, now.Unix()/3600+24, strings.Repeat("f", 40), id), nil},
	} {
		value, err := json.Marshal(kv.value)
		if err != nil {
			return nil, err
		}
		ops = append(ops, &api.KVTxnOp{Verb: api.KVSet, Key: kv.key, Value: value})
	}
	return ops, nil
}

// usage is what a process has used.
type usage struct {
	resident int64 // bytes
	cpu      time.Duration
}

func (w *crowd) consul() usage {
	var u usage
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.pid))
	w.must(err)
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			w.must(err)
			u.resident = kb << 10
		}
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.pid))
	w.must(err)
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	for _, field := range fields[11:13] { // user and system time, in ticks of 10 ms
		ticks, err := strconv.ParseInt(field, 10, 64)
		w.must(err)
		u.cpu += time.Duration(ticks) * 10 * time.Millisecond
	}
	return u
}

func ourCPU() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

const mb = 1 << 20

func (w *crowd) memory(before usage, bytes int64) {
	after := w.consul()
	n := int64(len(w.ids))
	w.say("keys and values", "%.1f MB, %d bytes a session", float64(bytes)/mb, bytes/n)
	w.say("Consul, resident", "%.0f MB before, %.0f after: %.1f KB a session; CPU %.1f s", float64(before.resident)/mb, float64(after.resident)/mb,
		float64(after.resident-before.resident)/1024/float64(n), (after.cpu - before.cpu).Seconds())
}

// backup takes a snapshot of Consul's state, as raft does by itself now and then.
func (w *crowd) backup() {
	begin, before := time.Now(), w.consul()
	res, err := http.Get("http://" + w.address + "/v1/snapshot")
	w.must(err)
	defer res.Body.Close()
	size, err := io.Copy(io.Discard, res.Body)
	w.must(err)
	w.say("Consul's snapshot, packed", "%.1f MB in %.2f s, CPU %.2f s", float64(size)/mb, time.Since(begin).Seconds(), (w.consul().cpu - before.cpu).Seconds())
	var disk int64
	_ = filepath.Walk(w.dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			disk += info.Size()
		}
		return nil
	})
	w.say("Consul's data folder: raft log and snapshots", "%.0f MB", float64(disk)/mb)
}

// singles are what one request asks for.
func (w *crowd) singles() {
	ctx := w.b.Context()
	w.times("get", 500, 1, func(i int) error {
		_, err := w.store.Get(ctx, w.ids[i])
		return err
	})
	w.times("get", 2000, 64, func(i int) error {
		_, err := w.store.Get(ctx, w.ids[i%len(w.ids)])
		return err
	})
	for _, account := range []string{accountOf(len(w.ids)-50, len(w.ids)), "middle", "big"} {
		entries, err := w.store.Account(ctx, account)
		w.must(err)
		w.times(fmt.Sprintf("create and count, %d in the account", len(entries)), 30, 1, func(int) error {
			r := asleep(account, 24*time.Hour)
			if err := w.store.Create(ctx, r); err != nil {
				return err
			}
			if _, err := w.store.Account(ctx, account); err != nil {
				return err
			}
			return w.store.Delete(ctx, r)
		})
	}
}

func (w *crowd) lists() {
	ctx := w.b.Context()
	entries, err := w.store.Account(ctx, "big")
	w.must(err)
	for _, c := range []struct {
		what string
		r    frontend.ListRequest
	}{
		{"first page", frontend.ListRequest{Limit: 20}},
		{"last page", frontend.ListRequest{Limit: 20, Offset: len(entries) - 20}},
		{"first page by metadata", frontend.ListRequest{Limit: 20, Metadata: map[string]string{"kind": "analysis"}}},
		{"first page by metadata, none fits", frontend.ListRequest{Limit: 20, Metadata: map[string]string{"kind": "none"}}},
	} {
		w.times(fmt.Sprintf("list %d, %s", len(entries), c.what), 10, 1, func(int) error {
			_, _, err := w.service.List(ctx, "big", c.r)
			return err
		})
	}
}

// watches counts how often watches of empty folders are woken by writes elsewhere.
func (w *crowd) watches() {
	ctx, cancel := context.WithCancel(w.b.Context())
	var slots, keys atomic.Int64
	var work errgroup.Group
	watch := func(woken *atomic.Int64, wait func(since uint64) (uint64, error)) {
		work.Go(func() error {
			for since := uint64(0); ; woken.Add(1) {
				var err error
				if since, err = wait(since); ctx.Err() != nil {
					return nil
				} else if err != nil {
					return err
				}
			}
		})
	}
	watch(&slots, func(since uint64) (uint64, error) { _, next, err := w.store.Slots(ctx, since); return next, err })
	watch(&keys, func(since uint64) (uint64, error) { _, next, err := w.store.Keys(ctx, since); return next, err })
	const writes = 500
	w.many(writes, 1, w.update)
	cancel()
	w.must(work.Wait())
	w.say(fmt.Sprintf("%d writes of records wake the watch of", writes), "no slots %d times, no API keys %d times", slots.Load(), keys.Load())
}

// rounds are the reaper's, with nothing to do.
func (w *crowd) rounds() {
	for i := range 5 {
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		top := make(chan uint64, 1)
		done := make(chan struct{})
		go func() { top <- highest(done) }()
		begin, us, them := time.Now(), ourCPU(), w.consul()
		err := w.service.Reap(w.b.Context())
		took, cpu, end := time.Since(begin), ourCPU()-us, w.consul()
		close(done)
		runtime.ReadMemStats(&after)
		w.say(fmt.Sprintf("reaper, round %d", i+1), "%.2f s, CPU %.2f s, Consul's %.2f s, allocated %.0f MB, heap at most %.0f MB more, Consul %.0f MB resident, error: %v",
			took.Seconds(), cpu.Seconds(), (end.cpu - them.cpu).Seconds(), float64(after.TotalAlloc-before.TotalAlloc)/mb, float64(<-top-before.HeapAlloc)/mb, float64(end.resident)/mb, err)
	}
}

// highest is the most that the heap had until done.
func highest(done chan struct{}) (most uint64) {
	for {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapAlloc)
		select {
		case <-done:
			return most
		case <-time.After(10 * time.Millisecond):
		}
	}
}
