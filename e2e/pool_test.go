// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
	"github.com/buntime/buntime/frontend"
)

// TestPool goes through what slots are to do, on a system of its own: that of the
// other tests has none.
func TestPool(t *testing.T) {
	if system.stack == nil {
		t.Skip("it starts a system of its own, beside the one that the environment names")
	}
	p := startPool(t)
	t.Run("a create takes a slot", p.takes)
	t.Run("a slot is nobody's", p.nobodys)
}

// pooled is a system with a pool.
type pooled struct {
	*cluster
}

// poolSlots is how many slots there are to be.
const poolSlots = 3

func startPool(t *testing.T) *pooled {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(context.Background(), 5*time.Minute, errors.New("the tests of the pool took over 5 minutes"))
	t.Cleanup(cancel)
	s, err := stack.Start(ctx, stack.Options{
		Clients: 2, Frontends: 2,
		Keys: []stack.Key{{Key: stack.NewKey(), Account: "pool", Plan: "enterprise", Limits: M{"requests": 1_000_000}}},
		Frontend: M{
			"reap_interval": "1s", "shutdown_timeout": "2s",
			"pool": M{"min": poolSlots, "max": poolSlots},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stopCtx, cancel := context.WithTimeoutCause(context.Background(), 3*time.Minute, errors.New("the system is still there after 3 minutes"))
		defer cancel()
		if t.Failed() {
			for _, part := range []string{"front-end", "front-end-1", "nomad-client", "nomad-client-1"} {
				t.Logf("==> end of the log of %s\n%s", part, s.Logs(part, 40))
			}
		}
		if err := s.Stop(stopCtx); err != nil {
			t.Error(err)
		}
	})
	p := &pooled{&cluster{Stack: s, ctx: ctx}}
	for _, f := range s.Frontends {
		p.apis = append(p.apis, client.New(f.URL, s.Keys[0].Key))
	}
	return p
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
	for id := range p.filled(t, poolSlots) {
		s := &session{t: t, ctx: p.ctx, api: p.apis[0], id: id}
		refusal(t, s.infoReply(), http.StatusNotFound, "session_not_found")
		refusal(t, s.post("/execute", M{"code": "1"}), http.StatusNotFound, "session_not_found")
	}
	equal(t, "sessions in the list", listSessions(t, p.ctx, p.apis[0]).ids(), []string{})
}
