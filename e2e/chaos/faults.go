// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/e2e/stack"
	"github.com/buntime/buntime/e2e/swift"
)

// fault is one way in which something goes wrong.
type fault struct {
	kind   string
	weight int
	// do breaks something, and mends it after a while.
	do func(f *injector, ctx context.Context, n int) error
	// of is what n counts: "front", "node" or "".
	of string
	// loses says that nodes may be taken for lost by it.
	loses bool
}

// faults are all that there are. A part that is killed is started again at once or
// after some seconds, one that stands still goes on after some seconds.
var faults = []fault{
	{kind: "front-end killed", weight: 2, of: "front", do: (*injector).killFront},
	{kind: "front-end stopped", weight: 2, of: "front", do: (*injector).stopFront},
	{kind: "plugin killed", weight: 3, of: "node", do: (*injector).killPlugin},
	{kind: "agent killed", weight: 3, of: "node", do: (*injector).killAgent, loses: true},
	{kind: "agent stopped", weight: 2, of: "node", do: (*injector).stopAgent, loses: true},
	{kind: "node stopped", weight: 3, of: "node", do: (*injector).stopNode, loses: true},
	{kind: "node killed", weight: 3, of: "node", do: (*injector).killNode, loses: true},
	{kind: "node drained", weight: 2, of: "node", do: (*injector).drainNode, loses: true},
	{kind: "Nomad server killed", weight: 2, do: (*injector).killServer, loses: true},
	{kind: "Nomad server stopped", weight: 2, do: (*injector).stopServer, loses: true},
	{kind: "Consul killed", weight: 2, do: (*injector).killConsul},
	{kind: "Consul stopped", weight: 2, do: (*injector).stopConsul},
	{kind: "Swift killed", weight: 1, do: (*injector).killSwift},
	{kind: "Swift stopped", weight: 2, do: (*injector).stopSwift},
	{kind: "Swift slow", weight: 1, do: spoil(func(d *rand.Rand) swift.Action { return swift.Delay(time.Duration(d.IntN(1500)) * time.Millisecond) })},
	{kind: "Swift answers 5xx", weight: 2, do: spoil(func(d *rand.Rand) swift.Action {
		return swift.Answer([]int{http.StatusInternalServerError, http.StatusServiceUnavailable}[d.IntN(2)])
	})},
	{kind: "Swift cuts connections", weight: 1, do: spoil(func(*rand.Rand) swift.Action { return swift.Cut })},
	{kind: "Swift cuts answers", weight: 2, do: spoil(func(*rand.Rand) swift.Action { return swift.CutAnswer })},
}

// window is when a fault was there.
type window struct {
	fault      *fault
	n          int
	begin, end time.Time // end is zero as long as it lasts
}

// injector does one fault after the other.
type injector struct {
	run  *run
	rand *rand.Rand

	mu      sync.Mutex
	windows []window
}

func newInjector(r *run) *injector { return &injector{run: r, rand: r.dice(0)} }

// recoverTime bounds a fault with all that has to come up after it.
const recoverTime = 2 * time.Minute

// inject does faults until the context ends. All parts are up when it returns without an
// error.
func (f *injector) inject(ctx context.Context) error {
	var order []*fault
	for wait(ctx, f.between(1, 3)) {
		if len(order) == 0 {
			order = f.shuffled()
		}
		next := order[0]
		order = order[1:]
		if err := f.once(next); err != nil {
			return err
		}
		if err := f.answersAgain(); err != nil {
			return err
		}
	}
	return f.placement(true, true)
}

// shuffled is every fault, as often as it weighs, in random order: so a short run sees
// as many kinds as it has time for.
func (f *injector) shuffled() (all []*fault) {
	for n := range faults {
		if only := f.run.Faults; len(only) > 0 && !slices.Contains(only, faults[n].kind) {
			continue
		}
		for range faults[n].weight {
			all = append(all, &faults[n])
		}
	}
	f.rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	seen := map[string]bool{}
	var first, rest []*fault
	for _, one := range all {
		if seen[one.kind] {
			rest = append(rest, one)
		} else {
			first, seen[one.kind] = append(first, one), true
		}
	}
	return append(first, rest...)
}

// once does a fault and what undoes it.
func (f *injector) once(one *fault) error {
	ctx, cancel := context.WithTimeoutCause(f.run.ctx, recoverTime, fmt.Errorf("not over after %v", recoverTime))
	defer cancel()
	n := 0
	switch one.of {
	case "front":
		n = f.rand.IntN(len(f.run.Frontends))
	case "node":
		n = f.rand.IntN(len(f.run.Clients))
		// One without sessions has little to lose.
		if f.rand.IntN(4) > 0 {
			n = f.run.witness.busiest()
		}
	}
	// Nomad would fill one node before the other.
	if err := f.placement(f.where(one, n)); err != nil {
		return err
	}
	f.mu.Lock()
	f.windows = append(f.windows, window{fault: one, n: n, begin: time.Now()})
	f.mu.Unlock()
	f.run.Progress("%s %s (%d)", f.run.elapsed(), one.kind, n)
	f.run.tally.count("faults", one.kind)
	if err := one.do(f, ctx, n); err != nil {
		return fmt.Errorf("fault %q (%d), %s: %w", one.kind, n, f.run.elapsed(), err)
	}
	f.mu.Lock()
	f.windows[len(f.windows)-1].end = time.Now()
	f.mu.Unlock()
	return nil
}

// where is on which nodes new lives may begin next: of a node that goes away not only
// there.
func (f *injector) where(one *fault, n int) (first, second bool) {
	pick := f.rand.IntN(3)
	if one.of == "node" && pick < 2 {
		pick = 1 - n
	}
	return pick != 1, pick != 0
}

// placement says on which nodes new lives may begin.
func (f *injector) placement(may ...bool) error {
	ctx, cancel := context.WithTimeoutCause(f.run.ctx, 10*time.Second, errors.New("not done in 10 s"))
	defer cancel()
	for n, c := range f.run.Clients {
		if err := c.TakeNew(ctx, may[n]); err != nil {
			return err
		}
	}
	return nil
}

// between is a random time from low to high seconds.
func (f *injector) between(low, high float64) time.Duration {
	return time.Duration((low + f.rand.Float64()*(high-low)) * float64(time.Second))
}

// rest is how long a part is away.
func (f *injector) rest(ctx context.Context, low, high float64) error {
	if !wait(ctx, f.between(low, high)) {
		return context.Cause(ctx)
	}
	return nil
}

// killed kills a part, and starts it again after a while.
func (f *injector) killed(ctx context.Context, p *stack.Part) error {
	if err := p.Kill(ctx, syscall.SIGKILL); err != nil {
		return err
	}
	if err := f.rest(ctx, 0, 3); err != nil {
		return err
	}
	return p.Restart(ctx)
}

// stopped has a part stand still for a while, of so many seconds at most.
func (f *injector) stopped(ctx context.Context, p *stack.Part, most float64) error {
	if err := p.Pause(ctx); err != nil {
		return err
	}
	err := f.rest(ctx, 2, most)
	return errors.Join(err, p.Resume())
}

// untilLost is how many seconds are enough for Nomad to take a node for lost, which is
// 12 at the latest.
const untilLost = 18

func (f *injector) killFront(ctx context.Context, n int) error {
	return f.killed(ctx, &f.run.Frontends[n].Part)
}

func (f *injector) stopFront(ctx context.Context, n int) error {
	return f.stopped(ctx, &f.run.Frontends[n].Part, 8)
}

func (f *injector) killPlugin(ctx context.Context, n int) error {
	return f.run.Clients[n].KillPlugin(ctx, syscall.SIGKILL) // Nomad starts another
}

func (f *injector) killAgent(ctx context.Context, n int) error {
	return f.killed(ctx, &f.run.Clients[n].Agent)
}

func (f *injector) stopAgent(ctx context.Context, n int) error {
	return f.stopped(ctx, &f.run.Clients[n].Agent, untilLost)
}

// stopNode has agent and plugin stand still, as if the machine was cut off: for a
// moment, or until its sessions live elsewhere.
func (f *injector) stopNode(ctx context.Context, n int) error {
	c := f.run.Clients[n]
	if err := c.Pause(ctx); err != nil {
		return err
	}
	err := f.rest(ctx, 2, untilLost+6)
	return errors.Join(err, c.Resume())
}

func (f *injector) killNode(ctx context.Context, n int) error {
	c := f.run.Clients[n]
	if err := c.Kill(ctx); err != nil {
		return err
	}
	if err := f.rest(ctx, 0, untilLost); err != nil {
		return err
	}
	return c.Restart(ctx)
}

// drainDeadline is short enough for sessions that are in use to be stopped.
const drainDeadline = 5 * time.Second

func (f *injector) drainNode(ctx context.Context, n int) error {
	id, err := f.run.Clients[n].ID(ctx)
	if err != nil {
		return err
	}
	q := (&nomad.WriteOptions{}).WithContext(ctx)
	if _, err := f.run.Nomad.Nodes().UpdateDrain(id, &nomad.DrainSpec{Deadline: drainDeadline}, false, q); err != nil {
		return fmt.Errorf("drain node: %w", err)
	}
	err = f.rest(ctx, 1, 12)
	_, uerr := f.run.Nomad.Nodes().UpdateDrain(id, nil, true, q)
	return errors.Join(err, uerr)
}

func (f *injector) killServer(ctx context.Context, _ int) error {
	return f.killed(ctx, &f.run.NomadServer)
}

func (f *injector) stopServer(ctx context.Context, _ int) error {
	return f.stopped(ctx, &f.run.NomadServer, untilLost)
}

func (f *injector) killConsul(ctx context.Context, _ int) error {
	return f.killed(ctx, &f.run.ConsulServer)
}

func (f *injector) stopConsul(ctx context.Context, _ int) error {
	return f.stopped(ctx, &f.run.ConsulServer, 8)
}

func (f *injector) killSwift(ctx context.Context, _ int) error {
	if err := f.run.Swift.Stop(); err != nil { // by force
		return err
	}
	if err := f.rest(ctx, 0, 5); err != nil {
		return err
	}
	return f.run.Swift.Start(ctx)
}

func (f *injector) stopSwift(ctx context.Context, _ int) error {
	if err := f.run.Swift.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	err := f.rest(ctx, 2, 8)
	return errors.Join(err, f.run.Swift.Signal(syscall.SIGCONT))
}

// spoil does something to many of the requests to Swift for some seconds.
func spoil(what func(*rand.Rand) swift.Action) func(*injector, context.Context, int) error {
	return func(f *injector, ctx context.Context, _ int) error {
		dice := rand.New(rand.NewPCG(f.rand.Uint64(), 0)) // used by the proxy, one request after the other
		often := 0.2 + 0.6*f.rand.Float64()
		f.run.Swift.Proxy.Set(func(int, *http.Request) swift.Action {
			if dice.Float64() >= often {
				return nil
			}
			return what(dice)
		})
		defer f.run.Swift.Proxy.Set(nil)
		return f.rest(ctx, 4, 10)
	}
}
