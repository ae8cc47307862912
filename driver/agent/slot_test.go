// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bytes"
	"encoding/json"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/claim"
)

// newSlot is a fixture with a slot, of which there is no record. Its session would be
// idle at once, and stored as often as can be.
func newSlotFor(t *testing.T, age time.Duration) *fixture {
	t.Helper()
	f := newFixtureOf(t, fixtureOptions{
		ttl: age, idleAfter: 200 * time.Millisecond, sleepAfter: time.Hour, checkpointEvery: 100 * time.Millisecond,
		change: func(task *driver.Task) {
			task.Session.Slot = true
			task.Rests.(*memoryRests).wanted = 0
		},
	})
	if status := f.call(t, "GET", "/v1/prepared", nil, nil); status != http.StatusOK {
		t.Fatalf("prepared: status %d", status)
	}
	return f
}

// taken is what a front-end does that has taken the slot, but for telling the node.
func (f *fixture) taken(expires time.Time) {
	f.rests().extend(expires)
	f.rests().want(1)
}

func (f *fixture) begin(t *testing.T, expires time.Time) int {
	t.Helper()
	return f.call(t, "POST", "/v1/begin", map[string]any{"expiresAt": expires}, nil)
}

// TestSlot: while it is nobody's, a slot lets nobody in, is never idle and stores
// nothing; and then it is a session whose time has just begun.
func TestSlot(t *testing.T) {
	f := newSlotFor(t, time.Hour)
	time.Sleep(time.Second) // a session would be idle and stored by now
	i := f.instance.(*instance)
	for _, path := range []string{"/v1/info", "/v1/files/list", "/v1/processes"} {
		if status := f.call(t, "GET", path, nil, nil); status != http.StatusNotFound {
			t.Errorf("%s: status %d", path, status)
		}
	}
	res, err := http.Get("http://" + f.task.Preview)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusNotFound {
		t.Errorf("preview: status %d", res.StatusCode)
	}
	if state, _, _, _ := i.session.life.look(); state != lifeActive || f.rests().at(1).Try != 0 {
		t.Errorf("it is %s, and was stored %d times", state, f.rests().at(1).Try)
	}
	expires := time.Now().Add(2 * time.Hour).Truncate(time.Second)
	f.taken(expires)
	for range 2 { // an answer may have been lost
		if status := f.begin(t, expires); status != http.StatusOK {
			t.Fatalf("begin: status %d", status)
		}
	}
	if info := f.info(t); info.ExpiresAt != timestamp(expires) {
		t.Errorf("%+v", info)
	}
	if r := f.run(t, map[string]any{"code": "console.log(1)"}); r.Stdout != "1\n" {
		t.Errorf("%+v", r)
	}
	deadline := time.Now().Add(10 * time.Second)
	for f.info(t).State != lifeIdle || f.rests().at(1).Try == 0 {
		if time.Now().After(deadline) {
			t.Fatalf("no session in all: %+v", f.info(t))
		}
		time.Sleep(10 * time.Millisecond)
	}
	f.restart(t) // with the end of the slot in the task
	if info := f.info(t); info.ExpiresAt != timestamp(expires) {
		t.Errorf("after a restart: %+v", info)
	}
}

// TestSlotBeginsByRecord: a front-end that has taken it and died before it could say
// so is as good as one that did.
func TestSlotBeginsByRecord(t *testing.T) {
	f := newSlotFor(t, time.Hour)
	expires := time.Now().Add(2 * time.Hour).Truncate(time.Second)
	f.taken(expires)
	if r := f.run(t, map[string]any{"code": "console.log(1)"}); r.Stdout != "1\n" {
		t.Errorf("%+v", r)
	}
	if info := f.info(t); info.ExpiresAt != timestamp(expires) {
		t.Errorf("%+v", info)
	}
}

// TestSlotEnds: one that nobody takes ends by itself, and nobody is told that it is
// there; one that was taken lives on.
func TestSlotEnds(t *testing.T) {
	f := newSlotFor(t, 12*time.Second) // long enough for a busy machine to make it ready
	f.gone(t)
	if !f.rests().vacated {
		t.Error("front-ends know of it still")
	}
	for _, told := range []bool{true, false} {
		f = newSlotFor(t, time.Hour)
		f.taken(time.Now().Add(time.Hour))
		if told && f.begin(t, time.Now().Add(time.Hour)) != http.StatusOK {
			t.Error("it does not begin")
		}
		i := f.instance.(*instance)
		i.expire() // as at the end of the slot
		select {
		case <-i.box.Done():
			t.Fatalf("told %t: it has ended", told)
		default:
		}
		if r := f.run(t, map[string]any{"code": "console.log(1)"}); r.Stdout != "1\n" {
			t.Errorf("told %t: %+v", told, r)
		}
	}
}

// TestSlotBeginsOrEnds: whoever says that a slot begins when its time is over gets it
// whole, or is refused.
func TestSlotBeginsOrEnds(t *testing.T) {
	for range 5 {
		f := newSlotFor(t, time.Hour)
		i := f.instance.(*instance)
		var status int
		var both sync.WaitGroup
		both.Go(i.expire)
		both.Go(func() {
			err := i.begin(i.session, time.Now().Add(time.Hour))
			if err == nil {
				status = http.StatusOK
			}
		})
		both.Wait()
		select {
		case <-i.box.Done():
			if status == http.StatusOK {
				t.Error("it has begun, and is over")
			}
		default:
			if status != http.StatusOK {
				t.Error("it has neither begun nor ended")
			}
		}
	}
}

// TestSlotOfEarlierProcess: a slot does not outlive the plugin whose settings it has.
func TestSlotOfEarlierProcess(t *testing.T) {
	f := newSlotFor(t, time.Hour)
	f.restart(t)
	f.gone(t)
	if !f.rests().vacated {
		t.Error("front-ends know of it still")
	}
}

// TestSlotsToken: a slot is begun, or asked whether it is ready, by who has its own
// token, and its end is the one that it was given first.
func TestSlotsToken(t *testing.T) {
	f := newSlotFor(t, time.Hour)
	expires := time.Now().Add(2 * time.Hour).Truncate(time.Second)
	body, err := json.Marshal(map[string]any{"expiresAt": expires})
	if err != nil {
		t.Fatal(err)
	}
	secret, id := []byte(testSecret), f.task.Session.ID
	for name, token := range map[string]string{
		"none": "", "of another session": claim.Token(secret, "ses_other", 1), "of another life": claim.Token(secret, id, 2),
		"for previews": claim.PreviewToken(secret, id, 1), "of another secret": claim.Token([]byte("x"), id, 1),
	} {
		for _, call := range [][2]string{{"GET", "/v1/prepared"}, {"POST", "/v1/begin"}} {
			req, err := http.NewRequestWithContext(t.Context(), call[0], "http://"+f.task.API+call[1], bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if token != "" {
				req.Header.Set("Authorization", "Bearer "+token)
			}
			res, err := f.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s with a token %s: status %d", call[1], name, res.StatusCode)
			}
		}
	}
	if i := f.instance.(*instance); !i.slot.vacant() {
		t.Fatal("it has begun")
	}
	f.taken(expires)
	for _, at := range []time.Time{expires, expires.Add(time.Hour)} {
		if status := f.begin(t, at); status != http.StatusOK {
			t.Fatalf("begin: status %d", status)
		}
		if info := f.info(t); info.ExpiresAt != timestamp(expires) {
			t.Errorf("told that it ends at %v, it ends at %v", at, info.ExpiresAt)
		}
	}
}
