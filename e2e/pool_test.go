// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
	"github.com/buntime/buntime/frontend"
)

// TestPool goes through what slots are to do, on a system of its own: that of the
// other tests has none.
func TestPool(t *testing.T) {
	p := startPool(t)
	t.Run("a create takes a slot", p.takes)
	t.Run("a slot is nobody's", p.nobodys)
	t.Run("a session that was a slot", p.lives)
	t.Run("two front-ends", p.race)
	t.Run("a slot dies", p.dies)
	t.Run("a plugin dies", p.pluginDies)
	t.Run("a drain ends slots", p.drainEnds)
	t.Run("slots grow old", p.ages)
	t.Run("the leader dies while it makes slots", p.leaderDies)
	t.Run("slots end without any front-end", p.endAlone)
}

// pooled is a system with a pool.
type pooled struct {
	*cluster
}

const (
	// poolSlots is how many slots there are to be.
	poolSlots = 3
	// poolAge is how old a slot may become, and poolMargin how long its node waits
	// after that for a front-end to end it.
	poolAge    = 15 * time.Second
	poolMargin = 2 * time.Second
)

func startPool(t *testing.T) *pooled {
	t.Helper()
	return &pooled{startCluster(t, 5*time.Minute, stack.Options{
		Clients: 2, Frontends: 2,
		Keys: busyKey("pool"),
		Frontend: M{
			"reap_interval": "1s", "shutdown_timeout": "2s",
			"pool": M{"min": poolSlots, "max": poolSlots, "max_age": poolAge.String()},
		},
	})}
}

// slots are those that there are, by id.
func (p *pooled) slots(t *testing.T) map[string]frontend.Slot {
	t.Helper()
	pairs, _, err := p.Consul.KV().List("buntime/slots/", nil)
	if err != nil {
		t.Fatal(err)
	}
	slots := map[string]frontend.Slot{}
	for _, pair := range pairs {
		var slot frontend.Slot
		if err := json.Unmarshal(pair.Value, &slot); err != nil {
			t.Fatal(err)
		}
		slots[slot.ID] = slot
	}
	return slots
}

// filled waits until as many slots are ready as there are to be, and no more are made.
func (p *pooled) filled(t *testing.T, want int) map[string]frontend.Slot {
	t.Helper()
	var slots map[string]frontend.Slot
	eventually(t, p.ctx, "the slots are ready", time.Minute, func() (bool, string) {
		slots = p.slots(t)
		ready := 0
		for _, slot := range slots {
			if slot.Ready() {
				ready++
			}
		}
		return ready == want && len(slots) == want, fmt.Sprintf("%d of %d ready", ready, len(slots))
	})
	return slots
}

func (p *pooled) takes(t *testing.T) {
	before := p.filled(t, poolSlots)
	began := time.Now().Truncate(time.Second)
	reply := send(t, p.ctx, p.apis[0], client.Call{Method: "POST", Path: "/sessions/create", JSON: M{"ttl": 300, "metadata": M{"a": 1}}})
	c := decode[created](t, reply)
	dropLater(t, p.apis[0], c.SessionID)
	slot, was := before[c.SessionID]
	if !was {
		t.Fatalf("%s was no slot before", c.SessionID)
	}
	t.Logf("Server-Timing: %v", reply.Header.Values("Server-Timing"))
	ends := instant(t, "expiresAt", c.ExpiresAt)
	if d := ends.Sub(began.Add(300 * time.Second)); d < 0 || d > 5*time.Second {
		t.Errorf("it ends %v after it was created %v, when the slot was made %v", ends, began, slot.Made)
	}
	s := &session{t: t, ctx: p.ctx, api: p.apis[0], id: c.SessionID}
	equal(t, "output", s.print(`console.log("works")`), "works\n")
	equal(t, "output at the other front-end", s.through(p.apis[1]).print(`console.log("works")`), "works\n")
	equal(t, "metadata", string(s.info().Metadata), `{"a":1}`)
	equal(t, "epoch", p.life(t, s).epoch, 1)
	after := p.filled(t, poolSlots)
	if _, is := after[c.SessionID]; is {
		t.Error("it is a slot still")
	}
	// What the node knows of its end.
	equal(t, "next transition", s.info().NextTransition, struct{ To, At string }{"expired", c.ExpiresAt})
}

func (p *pooled) nobodys(t *testing.T) {
	for id, slot := range p.filled(t, poolSlots) {
		s := &session{t: t, ctx: p.ctx, api: p.apis[0], id: id}
		refusal(t, s.infoReply(), http.StatusNotFound, "session_not_found")
		refusal(t, s.post("/execute", M{"code": "1"}), http.StatusNotFound, "session_not_found")
		refusal(t, s.drop(), http.StatusNotFound, "session_not_found")
		// Its address stands in Consul's catalog, for any proxy.
		r, err := http.NewRequestWithContext(p.ctx, http.MethodGet, "http://"+slot.Claim.Preview, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = frontend.Label(id) + ".example.com"
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		equal(t, "status of a preview at the node", res.StatusCode, http.StatusNotFound)
	}
	equal(t, "sessions in the list", listSessions(t, p.ctx, p.apis[0]).ids(), []string{})
}

// fromSlot is a session that was a slot.
func (p *pooled) fromSlot(t *testing.T) *session {
	t.Helper()
	before := p.filled(t, poolSlots)
	s := p.create(t)
	if _, was := before[s.id]; !was {
		t.Errorf("%s was no slot", s.id)
	}
	return s
}

// lives: it sleeps and wakes, and outlives the plugin, as any session does.
func (p *pooled) lives(t *testing.T) {
	s := p.fromSlot(t)
	s.write("file", "kept")
	for _, c := range p.Clients {
		if err := c.KillPlugin(p.ctx, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	s.answersAgain()
	equal(t, "file", s.read("file"), "kept")
	equal(t, "epoch", p.life(t, s).epoch, 1)
	// Longer than a slot lives.
	time.Sleep(poolAge + poolMargin + 2*time.Second)
	equal(t, "file", s.read("file"), "kept")
	equal(t, "epoch", p.life(t, s).epoch, 1)
	status(t, s.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	equal(t, "file", s.read("file"), "kept")
	equal(t, "epoch", p.life(t, s).epoch, 2)
}

// race: creates at both front-ends at once have a session each, more than there are
// slots.
func (p *pooled) race(t *testing.T) {
	for range 5 {
		before := p.filled(t, poolSlots)
		const each = 3
		made := make(chan string, each*len(p.apis))
		for _, api := range p.apis {
			for range each {
				go func() {
					made <- createSession(t, p.ctx, api, M{}).id
				}()
			}
		}
		seen, taken := map[string]bool{}, 0
		for range cap(made) {
			id := <-made
			if seen[id] {
				t.Errorf("%s was given away twice", id)
			}
			seen[id] = true
			if _, was := before[id]; was {
				taken++
			}
		}
		if taken != poolSlots {
			t.Errorf("%d of %d slots were taken by %d creates", taken, poolSlots, cap(made))
		}
		for id := range seen {
			s := &session{t: t, ctx: p.ctx, api: p.apis[0], id: id}
			equal(t, "output", s.print(`console.log("works")`), "works\n")
			status(t, s.drop(), http.StatusOK)
		}
	}
}

// replaced waits until all slots are others than before, within d.
func (p *pooled) replaced(t *testing.T, before map[string]frontend.Slot, d time.Duration) {
	t.Helper()
	eventually(t, p.ctx, "other slots are ready", d, func() (bool, string) {
		ready, old := 0, 0
		for id, slot := range p.slots(t) {
			if slot.Ready() {
				ready++
			}
			if _, was := before[id]; was {
				old++
			}
		}
		return old == 0 && ready == poolSlots, fmt.Sprintf("%d ready, %d of them old", ready, old)
	})
}

// dies: a slot whose allocation has ended is not offered any more.
func (p *pooled) dies(t *testing.T) {
	for id, slot := range p.filled(t, poolSlots) {
		if _, err := p.Nomad.Allocations().Stop(&nomad.Allocation{ID: slot.Claim.Alloc}, nil); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		eventually(t, p.ctx, "the slot is gone", 5*time.Second, func() (bool, string) {
			_, is := p.slots(t)[id]
			return !is, id
		})
		t.Logf("a slot that was stopped is gone after %v", time.Since(begin).Round(time.Millisecond))
		break
	}
	p.filled(t, poolSlots)
	p.noMore(t)
}

// pluginDies: slots were started with the settings of the plugin that is gone.
func (p *pooled) pluginDies(t *testing.T) {
	before := p.filled(t, poolSlots)
	for _, c := range p.Clients {
		if err := c.KillPlugin(p.ctx, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	// In the meantime there are cold starts.
	equal(t, "a session", p.create(t).print(`console.log("works")`), "works\n")
	p.replaced(t, before, poolAge)
	p.filled(t, poolSlots)
	p.noMore(t)
}

// drainEnds: slots leave a node that drains at once, and new ones are made elsewhere.
func (p *pooled) drainEnds(t *testing.T) {
	p.filled(t, poolSlots)
	node := p.Clients[0]
	id, err := node.ID(p.ctx)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if _, err := p.Nomad.Nodes().UpdateDrain(id, &nomad.DrainSpec{Deadline: time.Minute}, false, nil); err != nil {
		t.Fatal(err)
	}
	p.clean(t, node)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("slots have left a node that drains after %v", took)
	}
	for _, slot := range p.filled(t, poolSlots) {
		if slot.Claim.Node == id {
			t.Errorf("slot %s is on the node that was drained", slot.ID)
		}
	}
	if _, err := p.Nomad.Nodes().UpdateDrain(id, nil, true, nil); err != nil {
		t.Fatal(err)
	}
}

func (p *pooled) ages(t *testing.T) {
	p.replaced(t, p.filled(t, poolSlots), poolAge+10*time.Second)
	p.filled(t, poolSlots)
	p.noMore(t)
}

// leaderDies: what it was at is finished by the next, or gone.
func (p *pooled) leaderDies(t *testing.T) {
	for _, f := range p.Frontends {
		p.filled(t, poolSlots)
		for range poolSlots {
			p.create(t)
		}
		if err := f.Kill(p.ctx, syscall.SIGKILL); err != nil { // the slots are being made again
			t.Fatal(err)
		}
		if err := f.Restart(p.ctx); err != nil {
			t.Fatal(err)
		}
		shared.HTTP.CloseIdleConnections()
		for _, api := range p.apis {
			api.HTTP.CloseIdleConnections()
		}
		p.filled(t, poolSlots)
		p.noMore(t)
	}
}

// noMore waits until there is a job for each session and each slot, and no other.
func (p *pooled) noMore(t *testing.T) {
	t.Helper()
	eventually(t, p.ctx, "nothing without an owner", cleanWithin, func() (bool, string) {
		owned := map[string]bool{}
		for id := range p.slots(t) {
			owned[frontend.JobID(id, 1)] = true
		}
		keys, _, err := p.Consul.KV().Keys("buntime/sessions/", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			owned[frontend.Label(strings.TrimPrefix(key, "buntime/sessions/"))] = true
		}
		jobs, _, err := p.Nomad.Jobs().List(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, job := range jobs {
			if !owned[job.ID[:len("ses-")+20]] {
				return false, "job " + job.ID
			}
		}
		claims, _, err := p.Consul.KV().Keys("buntime/claims/", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range claims {
			id, _, _ := strings.Cut(strings.TrimPrefix(key, "buntime/claims/"), "/")
			if !owned[frontend.Label(id)] {
				return false, "claim " + key
			}
		}
		return true, ""
	})
}

// endAlone: nodes end slots that nobody takes although nobody tells them to.
func (p *pooled) endAlone(t *testing.T) {
	p.filled(t, poolSlots)
	for _, f := range p.Frontends {
		if err := f.Kill(p.ctx, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, p.ctx, "no slots", poolAge+poolMargin+5*time.Second, func() (bool, string) {
		slots := p.slots(t)
		return len(slots) == 0, fmt.Sprint(len(slots), " slots")
	})
	for _, node := range p.Clients {
		p.clean(t, node)
	}
	for _, f := range p.Frontends {
		if err := f.Restart(p.ctx); err != nil {
			t.Fatal(err)
		}
	}
	p.filled(t, poolSlots)
	p.noMore(t)
}
