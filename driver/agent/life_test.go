// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

func TestSchedule(t *testing.T) {
	last := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	expires := last.Add(time.Hour)
	for _, c := range []struct {
		name  string
		state string
		idle  time.Duration
		ends  time.Time
		busy  bool
		to    string
		at    time.Time
	}{
		{"active", lifeActive, 5 * time.Minute, expires, false, lifeIdle, last.Add(5 * time.Minute)},
		{"in use", lifeActive, 5 * time.Minute, expires, true, lifeGone, expires},
		{"idle", lifeIdle, 5 * time.Minute, expires, false, lifeGone, expires},
		{"expires before", lifeActive, 2 * time.Hour, expires, false, lifeGone, expires},
		{"never idle", lifeActive, 0, expires, false, lifeGone, expires},
		{"never anything", lifeActive, 0, time.Time{}, false, "", time.Time{}},
	} {
		to, at := schedule{idleAfter: c.idle, expires: c.ends}.next(c.state, last, c.busy)
		if to != c.to || !at.Equal(c.at) {
			t.Errorf("%s: %s at %s, want %s at %s", c.name, to, at, c.to, c.at)
		}
	}
}

// fakeClock has one timer, as a life does.
type fakeClock struct {
	mu  sync.Mutex
	at  time.Time
	due time.Time
	f   func()
}

func (c *fakeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *fakeClock) after(d time.Duration, f func()) stopper {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.due, c.f = c.at.Add(d), f
	return c
}

func (c *fakeClock) Stop() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.f = nil
	return true
}

// pass lets time go by, in steps that no timer is passed over in.
func (c *fakeClock) pass(d time.Duration) {
	for end := c.now().Add(d); ; {
		c.mu.Lock()
		f := c.f
		if f == nil || c.due.After(end) {
			c.at = end
			c.mu.Unlock()
			return
		}
		c.at, c.f = maxOf(c.at, c.due), nil
		c.mu.Unlock()
		f()
	}
}

func maxOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

type fakeFreezer struct {
	frozen bool
	fail   error
}

func (f *fakeFreezer) Freeze(context.Context) error {
	if f.fail == nil {
		f.frozen = true
	}
	return f.fail
}

func (f *fakeFreezer) Thaw() error {
	f.frozen = false
	return nil
}

func newFakeLife() (*life, *fakeClock, *fakeFreezer) {
	clock := &fakeClock{at: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
	f := new(fakeFreezer)
	l := newLife(schedule{idleAfter: 5 * time.Minute, expires: clock.at.Add(24 * time.Hour)}, f, clock.at, hclog.NewNullLogger())
	l.now, l.after = clock.now, clock.after
	l.begin()
	return l, clock, f
}

// TestLife goes through a session's idleness at its real times.
func TestLife(t *testing.T) {
	l, clock, f := newFakeLife()
	check := func(when string, frozen bool) {
		t.Helper()
		if f.frozen != frozen {
			t.Fatalf("%s: frozen %t, want %t", when, f.frozen, frozen)
		}
	}
	clock.pass(5*time.Minute - time.Second)
	check("just before", false)
	clock.pass(time.Second)
	check("after five minutes", true)
	if state, _, _, next := l.look(); state != lifeIdle || next.To != lifeGone {
		t.Errorf("state %s, next %v", state, next)
	}
	check("looked at", true)

	leave, err := l.use("request")
	if err != nil {
		t.Fatal(err)
	}
	check("used", false)
	clock.pass(time.Hour)
	check("in use for an hour", false)
	if _, _, reasons, next := l.look(); !slices.Equal(reasons, []string{"request"}) || next.To != lifeGone {
		t.Errorf("awake because %v, next %v", reasons, next)
	}
	leave()
	clock.pass(5*time.Minute - time.Second)
	check("just before the second time", false)
	if err := l.touch(); err != nil {
		t.Fatal(err)
	}
	clock.pass(5*time.Minute - time.Second)
	check("touched meanwhile", false)
	clock.pass(5 * time.Minute)
	check("long after", true)
	if err := l.touch(); err != nil {
		t.Fatal(err)
	}
	check("touched", false)

	release := l.hold()
	_, before, _, _ := l.look()
	clock.pass(time.Hour)
	check("held", false)
	if _, last, _, _ := l.look(); !last.Equal(before) {
		t.Error("a hold counts as activity")
	}
	release()
	clock.pass(5 * time.Minute)
	check("released", true)
}

// TestLifeSleeps goes on to deep sleep, at the real times, with a store that is away
// at first, and with somebody who comes in the middle.
func TestLifeSleeps(t *testing.T) {
	l, clock, f := newFakeLife()
	l.sleepAfter = 30 * time.Minute
	rested := make(chan error, 64)
	away := errors.New("the store is away")
	var there atomic.Bool
	l.sleepy = func() {
		rested <- l.rest(context.Background(), bySelf, func(context.Context) error {
			if there.Load() {
				return nil
			}
			return away
		})
	}
	begin := clock.now()
	clock.pass(5 * time.Minute)
	if _, _, _, next := l.look(); next == nil || next.To != lifeAsleep || next.At != timestamp(begin.Add(30*time.Minute)) {
		t.Errorf("next %+v", next)
	}
	for try := range 3 {
		clock.pass(30 * time.Minute)
		if err := <-rested; !errors.Is(err, away) || !f.frozen {
			t.Fatalf("try %d: %v, frozen %t", try, err, f.frozen)
		}
		for len(rested) > 0 {
			<-rested
		}
		if state, _, _, next := l.look(); state != lifeIdle || next == nil || next.At < timestamp(clock.now()) {
			t.Errorf("state %s, next %+v", state, next)
		}
	}
	// Somebody comes when it is due: not now.
	if err := l.touch(); err != nil {
		t.Fatal(err)
	}
	if err := l.rest(t.Context(), bySelf, func(context.Context) error { return nil }); !errors.Is(err, errBusy) {
		t.Errorf("sleep of a session that somebody has just used: %v", err)
	}
	if f.frozen {
		t.Error("it stands still")
	}
	there.Store(true)
	clock.pass(30*time.Minute + time.Second)
	for {
		if err := <-rested; err == nil {
			break
		}
	}
	if _, err := l.use("request"); !errors.Is(err, errAsleep) {
		t.Errorf("use of a session that is asleep: %v", err)
	}
	if !l.gone() {
		t.Error("it is not gone")
	}
}

// TestLifeFreezeFailsAtRest: what still runs must not be taken for a whole state.
func TestLifeFreezeFailsAtRest(t *testing.T) {
	l, _, f := newFakeLife()
	f.fail = errors.New("busy")
	err := l.rest(t.Context(), asked, func(context.Context) error {
		t.Error("a running session is saved as if it stood still")
		return nil
	})
	if !errors.Is(err, f.fail) {
		t.Errorf("%v", err)
	}
	if state, _, _, _ := l.look(); state != lifeActive {
		t.Errorf("state %s", state)
	}
}

func TestLifeWhenFreezingFails(t *testing.T) {
	l, clock, f := newFakeLife()
	f.fail = errors.New("busy")
	clock.pass(time.Hour)
	if state, _, _, _ := l.look(); state != lifeActive {
		t.Fatalf("state %s", state)
	}
	f.fail = nil
	clock.pass(5 * time.Minute)
	if state, _, _, _ := l.look(); state != lifeIdle || !f.frozen {
		t.Fatalf("state %s, frozen %t", state, f.frozen)
	}
}

// idleFixture is a session that becomes idle soon, with a server in it that
// counts by itself.
func idleFixture(t *testing.T) *fixture {
	t.Helper()
	f := newFixtureOf(t, fixtureOptions{idleAfter: 700 * time.Millisecond})
	r := f.run(t, map[string]any{"code": `
		let n = 0;
		setInterval(() => n++, 5);
		Bun.serve({ port: 8080, fetch: () => new Response(String(n)), websocket: { message(ws, m) { ws.send(m) } } });`})
	if !r.Background {
		t.Fatalf("%+v", r)
	}
	return f
}

func (f *fixture) info(t *testing.T) Info {
	t.Helper()
	var info Info
	if status := f.call(t, "GET", "/v1/info", nil, &info); status != 200 {
		t.Fatalf("info: status %d", status)
	}
	return info
}

func (f *fixture) awaitIdle(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for f.info(t).State != lifeIdle {
		if time.Now().After(deadline) {
			t.Fatalf("session is not idle: %+v", f.info(t))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (f *fixture) preview(t *testing.T) string {
	t.Helper()
	res, err := f.client.Get("http://" + f.task.Preview + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("preview: %d %s, %v", res.StatusCode, b, err)
	}
	return string(b)
}

// TestIdle lets a session come to rest: nothing in it runs, looking at it changes
// nothing, and whatever uses it finds it as it was.
func TestIdle(t *testing.T) {
	f := idleFixture(t)
	connection, err := net.Dial("tcp", f.task.Preview)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	f.awaitIdle(t)
	group := f.instance.(*instance).box.Group()
	before, err := group.Stats()
	if err != nil {
		t.Fatal(err)
	}
	// The state is told from the begin of the transition on, so that the last processes
	// may still be on their way to stand still, or to their end.
	for deadline := time.Now().Add(10 * time.Second); ; {
		time.Sleep(50 * time.Millisecond)
		now, err := group.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if now.CPU == before.CPU {
			break
		}
		if before = now; time.Now().After(deadline) {
			t.Fatal("an idle session does not stand still")
		}
	}
	for range 5 {
		if info := f.info(t); info.State != lifeIdle || info.NextTransition == nil || len(info.AwakeBecause) != 0 {
			t.Fatalf("%+v", info)
		}
		time.Sleep(50 * time.Millisecond)
	}
	after, err := group.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if after.CPU-before.CPU > time.Millisecond { // awake it takes 10 ms and more
		t.Errorf("an idle session used %s of CPU time", after.CPU-before.CPU)
	}
	for name, use := range map[string]func(){
		"preview": func() { f.preview(t) },
		"execute": func() {
			if r := f.run(t, map[string]any{"code": "console.log('awake')"}); r.Stdout != "awake\n" {
				t.Errorf("%+v", r)
			}
		},
		"files": func() {
			if status := f.call(t, "GET", "/v1/files/list", nil, nil); status != 200 {
				t.Errorf("list: %d", status)
			}
		},
		"together": func() {
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() { f.preview(t) })
			}
			all.Wait()
		},
	} {
		f.awaitIdle(t)
		life := f.instance.(*instance).session.life
		_, before, _, _ := life.look()
		use()
		if _, after, _, _ := life.look(); !after.After(before) {
			t.Errorf("after %s the session was last active at %v, as before it", name, after)
		}
	}
}

// TestIdleKeepsConnections sends a byte over a connection that was open when the
// session came to rest.
func TestIdleKeepsConnections(t *testing.T) {
	f := idleFixture(t)
	f.run(t, map[string]any{"code": `
		Bun.listen({ hostname: "127.0.0.1", port: 8081, socket: { data(s, d) { s.write(d) } } });`})
	// Previews upgrade to WebSocket alone; what the two then say is theirs.
	f.run(t, map[string]any{"code": `
		require("http").createServer().on("upgrade", (req, socket) => {
			socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
			socket.pipe(socket);
		}).listen(8082);`})
	conn, err := net.Dial("tcp", f.task.Preview)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: 8082-ses-test.x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 1024)
	if _, err := conn.Read(head); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f.awaitIdle(t)
		if _, err := io.WriteString(conn, "ping"); err != nil {
			t.Fatal(err)
		}
		echo := make([]byte, 4)
		if _, err := io.ReadFull(conn, echo); err != nil || string(echo) != "ping" {
			t.Fatalf("%q, %v", echo, err)
		}
	}
}

// TestIdleSurvivesRestart lets another process take over an idle session.
func TestIdleSurvivesRestart(t *testing.T) {
	f := idleFixture(t)
	f.awaitIdle(t)
	before := f.info(t)
	f.restart(t)
	f.awaitIdle(t)
	if after := f.info(t); after.LastActive != before.LastActive {
		t.Errorf("last active %s, before the restart %s", after.LastActive, before.LastActive)
	}
	f.preview(t)
}

// TestRunningExecutionIsNotIdle, also when its client has gone.
func TestRunningExecutionIsNotIdle(t *testing.T) {
	f := newFixtureOf(t, fixtureOptions{idleAfter: 300 * time.Millisecond})
	r := f.run(t, map[string]any{"timeout": 30, "code": `
		const begin = Date.now();
		let longest = 0, last = begin;
		while (Date.now() - begin < 2000) {
			await Bun.sleep(10);
			longest = Math.max(longest, Date.now() - last);
			last = Date.now();
		}
		console.log("done");`})
	if r.Stdout != "done\n" {
		t.Fatalf("%+v", r)
	}
	f.awaitIdle(t)
}
