// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/guest/wire"
)

// trivial is about the least that a TypeScript module can do.
const trivial = "const who: string = \"world\";\nconsole.log(`hello ${who}`);\n"

// spread are durations of one thing.
type spread []time.Duration

func (s spread) report(b *testing.B, name string) {
	slices.Sort(s)
	at := func(q float64) float64 { return s[min(len(s)-1, int(q*float64(len(s))))].Seconds() * 1e3 }
	b.ReportMetric(at(0), name+"-min-ms")
	b.ReportMetric(at(0.5), name+"-p50-ms")
	b.ReportMetric(at(0.99), name+"-p99-ms")
}

// quiet waits until the machine did next to nothing for 20 ms, at most 2 s.
func quiet(b *testing.B) {
	busy := func() (ticks int) {
		stat, err := os.ReadFile("/proc/stat")
		if err != nil {
			b.Fatal(err)
		}
		line, _, _ := strings.Cut(string(stat), "\n")
		for i, field := range strings.Fields(line)[1:] {
			if n, err := strconv.Atoi(field); err == nil && i != 3 && i != 4 { // idle, iowait
				ticks += n
			}
		}
		return ticks
	}
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		before := busy()
		time.Sleep(20 * time.Millisecond)
		if busy()-before <= 1 {
			return
		}
	}
}

// BenchmarkRun compares, turn by turn, a trivial module in a prepared runner, in
// one that has to be replaced, and in plain `bun run`.
func BenchmarkRun(b *testing.B) {
	x := newBox(b)
	x.write("workspace/hello.ts", trivial)
	var first, exiting, exited, coldFirst, coldExiting, plainFirst, plainExited spread
	turn := 0
	run := func(prepared, asked map[string]string, first, exiting, exited *spread) {
		turn++
		id := fmt.Sprint(turn)
		x.prepare(id, prepared)
		quiet(b)
		begin := time.Now()
		c := x.code(id, trivial, asked)
		c.awaitStdout("hello world\n")
		*first = append(*first, time.Since(begin))
		ev, err := c.next()
		for err == nil && ev.Event != wire.EventExiting && ev.Event != wire.EventExited {
			ev, err = c.next()
		}
		*exiting = append(*exiting, time.Since(begin))
		if err == nil && ev.Event == wire.EventExiting {
			c.await(wire.EventExited)
		}
		*exited = append(*exited, time.Since(begin))
		_ = c.Write(wire.KindReleased, nil)
		c.Close()
	}
	var ignored spread
	for b.Loop() {
		run(nil, nil, &first, &exiting, &exited)
		run(nil, map[string]string{"A": "B"}, &coldFirst, &coldExiting, &ignored)
		quiet(b)
		f, e := plainBun(b, x)
		plainFirst, plainExited = append(plainFirst, f), append(plainExited, e)
	}
	first.report(b, "first")
	exiting.report(b, "exiting")
	exited.report(b, "exited")
	coldFirst.report(b, "cold-first")
	coldExiting.report(b, "cold-exiting")
	plainFirst.report(b, "bun-first")
	plainExited.report(b, "bun-exited")
}

// plainBun measures `bun run` until its first output and its exit.
func plainBun(b *testing.B, x *box) (first, exited time.Duration) {
	cmd := exec.Command(x.cfg.Bun, "run", "hello.ts")
	cmd.Dir = x.workspace
	for k, v := range x.cfg.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 100)
	if _, err := out.Read(buf); err != nil {
		b.Fatal(err)
	}
	first = time.Since(begin)
	if _, err := out.Read(buf); !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
		b.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		b.Fatal(err)
	}
	return first, time.Since(begin)
}

// BenchmarkStart compares /bin/true as a command, through the shim, with a plain
// start of it.
func BenchmarkStart(b *testing.B) {
	x := newBox(b)
	var started, exited, plain spread
	turn := 0
	for b.Loop() {
		turn++
		quiet(b)
		begin := time.Now()
		c := x.request(wire.Request{Op: wire.OpRun, ID: fmt.Sprint(turn), Argv: []string{"/bin/true"}})
		c.await(wire.EventStarted)
		started = append(started, time.Since(begin))
		c.await(wire.EventExited)
		exited = append(exited, time.Since(begin))
		_ = c.Write(wire.KindReleased, nil)
		c.Close()
		quiet(b)
		begin = time.Now()
		if err := exec.Command("/bin/true").Run(); err != nil {
			b.Fatal(err)
		}
		plain = append(plain, time.Since(begin))
	}
	started.report(b, "started")
	exited.report(b, "exited")
	plain.report(b, "plain-exited")
}
