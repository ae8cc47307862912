// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// slots measures only what a create of a slot takes, in little time: one at a time
// beside bun run, and a hundred at once, with the CPU time that each part uses for it.
// With BUNTIME_BENCH_OUT, the folder with the binaries of another build, that takes
// turns with this one.
func (m *bench) slots() {
	const rounds, bursts = 40, 4
	all := []*slotRace{m.slotRace("this build", "")}
	if out := os.Getenv("BUNTIME_BENCH_OUT"); out != "" {
		all = append(all, m.slotRace("another build", out))
	}
	bun := m.bareBun(all[0].one.before)
	contenders := []*contender{bun}
	for _, r := range all {
		contenders = append(contenders, r.one)
	}
	m.race(3, 1, contenders...)
	for _, c := range contenders {
		c.took = nil
	}
	for _, r := range all {
		r.timing = spans{}
	}
	m.race(rounds, 1, contenders...)
	m.table("Create of a slot to first result, one at a time", bun, append(contenders[1:], bun)...)
	for _, r := range all {
		note(r.one.name + "; Server-Timing, p50: " + r.timing.String())
	}
	for range bursts {
		for _, r := range all {
			m.must(r.filled(benchSlots))
			m.must(m.pause(time.Second)) // what a filling leaves to do
			m.must(r.together.run())
		}
	}
	t := newTable(fmt.Sprintf("%d creates of slots at once, each to first result", benchSlots), "n", "p50", "p95", "p99", "max", "refused")
	var notes []string
	for _, r := range all {
		r.together.row(r.one.name, t)
		notes = append(notes, r.one.name+"; Server-Timing, p50: "+r.together.timing.String(), "CPU time of each, ms: "+r.together.used.per(len(r.together.took)))
	}
	t.print(append([]string{"ms"}, notes...)...)
}

// slotRace is a system with slots that is measured.
type slotRace struct {
	*bench
	timing   spans
	one      *contender
	together *burst
}

func (m *bench) slotRace(name, out string) *slotRace {
	r := &slotRace{bench: m.poolStack(benchSlots, out)}
	r.one = r.slotToResult(benchSlots, &r.timing)
	r.one.name = name
	r.together = &burst{bench: r.bench, n: benchSlots, used: cpuTimes{}}
	return r
}

// cpuTimes is how much CPU time parts have used, in seconds.
type cpuTimes map[string]float64

// add adds what was used from a moment to another.
func (c cpuTimes) add(from, to cpuTimes) {
	for name, used := range to {
		c[name] += used - from[name]
	}
}

func (c cpuTimes) per(n int) string {
	var list []string
	sum := 0.0
	for name, used := range c {
		sum += used
		list = append(list, fmt.Sprintf("%s %.2f", name, 1000*used/float64(n)))
	}
	slices.Sort(list)
	return fmt.Sprintf("%s, together %.2f", strings.Join(list, ", "), 1000*sum/float64(n))
}

// cpu is what the parts of the system have used until now: the servers, the benchmark
// itself, and all sessions' cgroups on the machine, init apart.
func (m *bench) cpu() cpuTimes {
	pids, err := m.stack.Pids()
	m.must(err)
	out := cpuTimes{}
	for name, pid := range pids {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		m.must(err)
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')'):]))
		for _, ticks := range fields[12:14] { // utime and stime
			n, err := strconv.ParseFloat(ticks, 64)
			m.must(err)
			out[name] += n / 100
		}
	}
	var own unix.Rusage
	m.must(unix.Getrusage(unix.RUSAGE_SELF, &own))
	out["client"] = time.Duration(own.Utime.Nano() + own.Stime.Nano()).Seconds()
	for _, kind := range []string{"init", "session"} {
		var files []string
		for _, pattern := range []string{"/sys/fs/cgroup/unified/nomad/*/", "/sys/fs/cgroup/nomad.slice/share.slice/*/"} {
			some, _ := filepath.Glob(pattern + kind + "/cpu.stat")
			files = append(files, some...)
		}
		for _, file := range files {
			text, _ := os.ReadFile(file) // it may have just ended
			for line := range strings.Lines(string(text)) {
				if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
					n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
					m.must(err)
					out[kind] += n / 1e6
				}
			}
		}
	}
	return out
}
