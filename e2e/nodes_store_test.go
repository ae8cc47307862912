// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"

	snapshotstore "github.com/buntime/buntime/driver/snapshot/store"
	swiftstore "github.com/buntime/buntime/driver/snapshot/store/swift"
	"github.com/buntime/buntime/e2e/swift"
)

// storeAway: while the object store is away, sessions on a node stay there and can
// be used, those that sleep cannot be woken, and nothing of either is lost.
func (c *cluster) storeAway(t *testing.T) {
	used, asleep := c.create(t), c.create(t)
	asleep.write("file", "slept")
	status(t, asleep.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	used.write("file", "kept")
	c.storeHangs(t, used)

	if err := c.Swift.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := c.Swift.Stop(); err != nil {
		t.Fatal(err)
	}
	used.write("file", "changed")
	eventually(t, c.ctx, "info tells of the problem", 30*time.Second, func() (bool, string) {
		i := used.info()
		return i.Durability.Problem != "", brief(i)
	})
	// By itself it would have slept by now.
	eventually(t, c.ctx, "the session is idle", nodeSleep, func() (bool, string) {
		i := used.info()
		return i.State == "idle", brief(i)
	})
	equal(t, "file", used.read("file"), "changed")
	if unready(t, used.sleep(M{"state": "deep-sleep"})) == "" {
		t.Error("the session sleeps without a store")
	}
	equal(t, "an execution", used.print(`console.log(await Bun.file("file").text())`), "changed\n")
	for _, api := range c.apis {
		begin := time.Now()
		said := unready(t, asleep.through(api).get("/files/read", "path", "file"))
		if said == "" {
			t.Error("a session wakes without a store")
		}
		t.Logf("wake without a store: %s after %v", said, time.Since(begin).Round(10*time.Millisecond))
	}

	if err := c.Swift.Start(c.ctx); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	eventually(t, c.ctx, "the sleeping session wakes", time.Minute, func() (bool, string) {
		reply := asleep.get("/files/read", "path", "file")
		if said := unready(t, reply); said != "" {
			return false, said
		}
		equal(t, "file", string(reply.Body), "slept")
		return true, ""
	})
	t.Logf("it wakes %v after the store is back", time.Since(begin).Round(10*time.Millisecond))
	status(t, used.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	equal(t, "file", used.read("file"), "changed")
	equal(t, "problem", used.info().Durability.Problem, "")
	for _, s := range []*session{used, asleep} {
		equal(t, "lost", s.info().Durability.Lost, false)
	}
}

// storeHangs has the store stand still when a session goes to sleep by itself: who
// comes in the middle of that does not wait for the store.
func (c *cluster) storeHangs(t *testing.T, s *session) {
	if err := c.Swift.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	tried := make(chan struct{})
	var once sync.Once
	s.write("while", "away")
	due := time.Now().Add(nodeSleep)
	c.Swift.Proxy.Set(func(_ int, r *http.Request) swift.Action {
		if strings.Contains(r.URL.Path, s.id) && time.Now().After(due) {
			once.Do(func() { close(tried) })
		}
		return nil
	})
	defer c.Swift.Proxy.Set(nil)
	select {
	case <-tried:
	case <-time.After(nodeSleep + 20*time.Second):
		t.Fatal("the session does not try to sleep")
	}
	for _, api := range c.apis {
		begin := time.Now()
		equal(t, "an execution while the store hangs", s.through(api).shell("cat while"), "away")
		if took := time.Since(begin); took > 15*time.Second {
			t.Errorf("it took %v", took)
		}
	}
	if state := s.info().State; state != "active" && state != "idle" { // which it soon is again
		t.Errorf("state %s", state)
	}
}

// storeBad: the store refuses requests and breaks connections. As long as it does
// what is asked now and then, sessions sleep and wake.
func (c *cluster) storeBad(t *testing.T) {
	defer c.Swift.Proxy.Set(nil)
	s := c.create(t)
	s.shell(`head -c 3000000 /dev/urandom >random; sha256sum random >sum`)
	c.Swift.Proxy.Set(func(_ int, r *http.Request) swift.Action {
		if r.Method == http.MethodPut {
			return swift.Answer(http.StatusInternalServerError)
		}
		return nil
	})
	if unready(t, s.sleep(M{"state": "deep-sleep"})) == "" {
		t.Error("the session sleeps although the store takes nothing")
	}
	if s.info().Durability.Problem == "" {
		t.Error("info does not tell that nothing can be stored")
	}
	equal(t, "sum", s.shell("sha256sum -c --quiet sum"), "")

	c.Swift.Proxy.Set(inTurn(s, swift.Answer(http.StatusServiceUnavailable), swift.Cut, swift.CutAnswer))
	status(t, s.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	c.Swift.Proxy.Set(inTurn(s, swift.Truncate(1000), swift.Answer(http.StatusServiceUnavailable), swift.Cut))
	equal(t, "sum", s.shell("sha256sum -c --quiet sum && echo same"), "same\n")
	equal(t, "lost", s.info().Durability.Lost, false)
}

// inTurn has the first requests for each object of a session fail, in one way after
// the other, and the next one pass.
func inTurn(s *session, ways ...swift.Action) swift.Fault {
	tried := map[string]int{} // calls come one after the other
	return func(_ int, r *http.Request) swift.Action {
		what := r.Method + " " + r.URL.Path
		n := tried[what]
		tried[what]++
		if !strings.Contains(what, s.id+"/") || n >= len(ways) {
			return nil
		}
		return ways[n]
	}
}

// frontendsAway: nobody but the nodes and the store sees to it that a session ends at
// its time, and that nothing of it is left.
func (c *cluster) frontendsAway(t *testing.T) {
	const ttl = 12 * time.Second
	expires := time.Now().Add(ttl).Truncate(time.Second)
	awake, asleep := c.shortLived(t, expires), c.shortLived(t, expires)
	for _, s := range []*session{awake, asleep} {
		s.shell(`head -c 1000000 /dev/urandom >random`)
	}
	checkpointed(t, awake)
	awake.begin(M{"timeout": 60, "code": `await Bun.write("running", ""); await Bun.sleep(60_000)`}) // so that it does not sleep
	awake.waitFor("running")
	status(t, asleep.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	objects := append(c.objects(t, awake), c.objects(t, asleep)...)
	if len(objects) < 2 || !c.stored(t, objects[0]) {
		t.Errorf("the store has only %q", objects)
	}
	for _, f := range c.Frontends {
		if err := f.Kill(c.ctx, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if !time.Now().Before(expires) {
		t.Fatalf("the test has taken over %v for what had to come before", ttl)
	}
	for _, node := range c.Clients {
		c.clean(t, node)
	}
	within(t, "end of the sandbox after its time", time.Since(expires), 0, 20*time.Second)
	// Out of the listings they go when Swift comes to it.
	for _, name := range objects {
		if c.stored(t, name) {
			t.Errorf("%s is still there %v after the time", name, time.Since(expires))
		}
	}
	for _, f := range c.Frontends {
		if err := f.Restart(c.ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []*session{awake, asleep} {
		s.api.HTTP.CloseIdleConnections()
		refusal(t, s.infoReply(), http.StatusNotFound, "session_not_found")
		eventually(t, c.ctx, "nothing is left in KV", cleanWithin, func() (bool, string) {
			keys, _, err := c.Consul.KV().Keys("buntime/", "", nil)
			keys = slices.DeleteFunc(keys, func(key string) bool { return !strings.Contains(key, s.id) })
			return err == nil && len(keys) == 0, fmt.Sprint(keys, err)
		})
	}
}

// shortLived makes a session of a shorter life than the API gives any: its record is
// written by hand, as one of a session that sleeps and was never awake.
func (c *cluster) shortLived(t *testing.T, expires time.Time) *session {
	t.Helper()
	model := c.create(t)
	id := model.id[:len(model.id)-8] + fmt.Sprintf("%08d", rand.IntN(1e8))
	for folder, change := range map[string]M{
		"buntime/sessions/":       {"id": id, "state": "deep-sleep", "epoch": 0, "claim": M{}, "expires": expires.UTC()},
		"buntime/accounts/nodes/": {"expires": expires.UTC()},
	} {
		pair, _, err := c.Consul.KV().Get(folder+model.id, nil)
		if err != nil || pair == nil {
			t.Fatalf("read %s%s: %v, %v", folder, model.id, pair, err)
		}
		var value M
		if err := json.Unmarshal(pair.Value, &value); err != nil {
			t.Fatal(err)
		}
		maps.Copy(value, change)
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Consul.KV().Put(&consul.KVPair{Key: folder + id, Value: text}, nil); err != nil {
			t.Fatal(err)
		}
	}
	status(t, model.drop(), http.StatusOK)
	s := *model
	s.id = id
	equal(t, "expiresAt", instant(t, "expiresAt", s.info().ExpiresAt), expires.UTC())
	return &s
}

// bucket is where the objects are.
func (c *cluster) bucket(t *testing.T) *swiftstore.Store {
	t.Helper()
	store, err := swiftstore.New(swiftstore.Config{AuthURL: c.Swift.AuthURL(), User: c.Swift.User(), Key: c.Swift.Key(), Container: "sessions"})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// stored says whether the store has an object.
func (c *cluster) stored(t *testing.T, name string) bool {
	t.Helper()
	store := c.bucket(t)
	defer store.Close()
	err := store.Get(c.ctx, name, 0, make([]byte, 1))
	if err != nil && !errors.Is(err, snapshotstore.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// objects are the names of what the store has of a session.
func (c *cluster) objects(t *testing.T, s *session) (names []string) {
	t.Helper()
	store := c.bucket(t)
	defer store.Close()
	for name, err := range store.List(c.ctx, s.id) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	return names
}
