// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/snapshot"
)

// memoryRests is a driver.Rests for one session.
type memoryRests struct {
	mu       sync.Mutex
	wanted   uint64 // epoch of the record; 0 is none
	expires  time.Time
	version  uint64
	rests    map[uint64]claim.Rest
	versions map[uint64]uint64
	key      snapshot.Key
	down     error
	// deaf stores the next note and says that it did not.
	deaf bool
	// vacated: the slot was removed.
	vacated bool
}

func (m *memoryRests) Last(_ context.Context, epoch uint64) (last claim.Rest, found bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for e, r := range m.rests {
		if e < epoch && !r.Snapshot.IsZero() && (!found || e > last.Epoch) {
			last, found = r, true
		}
	}
	return last, found, m.down
}

func (m *memoryRests) Load(_ context.Context, epoch uint64) (claim.Rest, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rests[epoch], m.versions[epoch], m.down
}

func (m *memoryRests) Note(_ context.Context, r claim.Rest, version uint64) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return 0, m.down
	}
	if m.versions[r.Epoch] != version {
		return 0, driver.ErrFenced
	}
	if m.rests == nil {
		m.rests, m.versions = map[uint64]claim.Rest{}, map[uint64]uint64{}
	}
	m.version++
	m.rests[r.Epoch], m.versions[r.Epoch] = r, m.version
	if m.deaf {
		m.deaf = false
		return 0, errors.New("no answer")
	}
	return m.version, nil
}

func (m *memoryRests) Key(context.Context) (snapshot.Key, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.key == (snapshot.Key{}) {
		m.key = snapshot.NewKey()
	}
	return m.key, m.down
}

func (m *memoryRests) Wanted(_ context.Context, epoch uint64) (time.Time, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.expires, m.wanted == epoch, m.down
}

func (m *memoryRests) Vacate(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vacated = true
	return m.down
}

// extend is what a front-end does that puts the session's end off.
func (m *memoryRests) extend(expires time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expires = expires
}

// at is what is noted of an epoch.
func (m *memoryRests) at(epoch uint64) claim.Rest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rests[epoch]
}

// want says which epoch the record is of.
func (m *memoryRests) want(epoch uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted = epoch
}

func (m *memoryRests) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = err
}

// seal is what a front-end does that gives a node up.
func (m *memoryRests) seal(epoch uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.rests[epoch]
	r.Sealed = true
	m.version++
	if m.rests == nil {
		m.rests, m.versions = map[uint64]claim.Rest{}, map[uint64]uint64{}
	}
	m.rests[epoch], m.versions[epoch] = r, m.version
}

func (f *fixture) rests() *memoryRests { return f.task.Rests.(*memoryRests) }

// gone waits until the sandbox has ended, which has to be a success.
func (f *fixture) gone(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if exit, err := f.instance.Wait(ctx); err != nil || exit.Code != 0 || exit.Err != nil {
		t.Fatalf("exit %+v, %v", exit, err)
	}
	if err := f.instance.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// wake starts the session's next life, on the same node agent.
func (f *fixture) wake(t *testing.T) {
	t.Helper()
	session := *f.task.Session
	session.Epoch++
	task := *f.task
	task.Session, task.AllocID = &session, task.AllocID+"-again"
	f.rests().want(session.Epoch)
	var err error
	if f.instance, err = f.agent.Start(t.Context(), &task); err != nil {
		t.Fatal(err)
	}
	f.task = &task
}

// sleepAndWake takes the session to its next life.
func (f *fixture) sleepAndWake(t *testing.T) {
	t.Helper()
	if status := f.call(t, "POST", "/v1/sleep", map[string]any{"state": "deep-sleep"}, nil); status != http.StatusOK {
		t.Fatalf("sleep: status %d", status)
	}
	f.gone(t)
	f.wake(t)
}

const (
	makeTree = `
		mkdir -p a/b empty && echo one >a/one && ln -s one a/link && ln a/one a/b/hard && chmod 750 a/b && chmod 4711 a/one
		touch -d '2001-02-03 04:05:06.123456789' a/one && truncate -s 50M sparse && echo end >>sparse && printf x >"$(printf 'odd\nname')"`
	describeTree = `find . -mindepth 1 -name '.buntime*' -prune -o -printf '%p %y %m %s %T@ %n %l\n' | LC_ALL=C sort; find . -mindepth 1 -name '.buntime*' -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum; du -k sparse | cut -f1`
)

// TestSleep puts a session to deep sleep three times and finds everything in it as
// it was, with nothing left on the node meanwhile.
func TestSleep(t *testing.T) {
	f := newFixture(t)
	if r := f.run(t, map[string]any{"command": makeTree}); r.ExitCode != 0 {
		t.Fatalf("%+v", r)
	}
	f.run(t, map[string]any{"code": `Bun.serve({ port: 8080, fetch: () => new Response("x") })`})
	want := f.run(t, map[string]any{"command": describeTree}).Stdout
	for life := range 3 {
		if info := f.info(t); !info.Durability.Dirty {
			t.Errorf("life %d is not dirty: %+v", life, info.Durability)
		}
		if status := f.call(t, "POST", "/v1/sleep", map[string]any{"state": "deep-sleep"}, nil); status != 200 {
			t.Fatalf("sleep: status %d", status)
		}
		f.gone(t)
		if left, err := os.ReadDir(f.config.StateDir + "/sandboxes"); err != nil || len(left) != 0 {
			t.Errorf("left on the node: %v, %v", left, err)
		}
		f.wake(t)
		got := f.run(t, map[string]any{"command": describeTree})
		if got.Stdout != want {
			t.Fatalf("life %d:\n%s\nwant\n%s", life+2, got.Stdout, want)
		}
		if r := f.run(t, map[string]any{"command": "cat .buntime*.ts 2>/dev/null | grep -c serve"}); r.Stdout != "0\n" {
			t.Errorf("module of code that does not run any more: %+v", r)
		}
		r := f.run(t, map[string]any{"command": "cat .buntime/sleeps/*.json; ls /proc/[0-9]*/comm | wc -l"})
		if life == 0 && !strings.Contains(r.Stdout, "executionId") {
			t.Errorf("history of the sleep: %s", r.Stdout)
		}
		f.run(t, map[string]any{"command": "echo more >>a/one; touch -d '2001-02-03 04:05:06.123456789' a/one"})
		want = f.run(t, map[string]any{"command": describeTree}).Stdout
	}
}

// TestWakeWithoutStore: a life that cannot begin says so, and takes nothing from the
// one before.
func TestWakeWithoutStore(t *testing.T) {
	f := newFixture(t)
	f.run(t, map[string]any{"command": "echo kept >file"})
	if status := f.call(t, "POST", "/v1/sleep", map[string]any{"state": "deep-sleep"}, nil); status != 200 {
		t.Fatalf("sleep: status %d", status)
	}
	f.gone(t)
	store, away := f.config.Store.Dir, f.config.Store.Dir+".away"
	if err := os.Rename(store, away); err != nil {
		t.Fatal(err)
	}
	before, session := f.task, *f.task.Session
	session.Epoch++
	task := *before
	task.Session, task.AllocID = &session, "without-store"
	f.rests().want(session.Epoch)
	if _, err := f.agent.Start(t.Context(), &task); err == nil {
		t.Fatal("the session wakes without the store")
	}
	if r := f.rests().at(session.Epoch); !r.Asleep || !r.Snapshot.IsZero() || r.Alloc != task.AllocID {
		t.Errorf("noted: %+v", r)
	}
	if err := os.RemoveAll(store); err != nil { // what looked for it has made it again
		t.Fatal(err)
	}
	if err := os.Rename(away, store); err != nil {
		t.Fatal(err)
	}
	f.task = &task
	f.wake(t)
	if r := f.run(t, map[string]any{"command": "cat file"}); r.Stdout != "kept\n" {
		t.Errorf("%+v", r)
	}
}

// TestSleepWhileInUse refuses it, unless forced; who is interrupted is told.
func TestSleepWhileInUse(t *testing.T) {
	f := newFixture(t)
	result := make(chan Result, 1)
	go func() {
		defer close(result) // also when call fails
		var r Result
		f.call(t, "POST", "/v1/execute", map[string]any{"executionId": "long", "code": "console.log('begun'); await Bun.write('begun', ''); await Bun.sleep(1e6)"}, &r)
		result <- r
	}()
	f.awaitFile(t, "begun")
	if status := f.call(t, "POST", "/v1/sleep", map[string]any{"state": "deep-sleep"}, nil); status != 409 {
		t.Errorf("sleep of a busy session: status %d", status)
	}
	if status := f.call(t, "POST", "/v1/sleep", map[string]any{"state": "deep-sleep", "force": true}, nil); status != 200 {
		t.Errorf("forced sleep: status %d", status)
	}
	if r := <-result; r.Reason != reasonInterrupted || r.Stdout != "begun\n" {
		t.Errorf("%+v", r)
	}
	f.gone(t)
	f.wake(t)
	f.awaitFile(t, "begun")
}

func (f *fixture) awaitFile(t *testing.T, name string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for f.call(t, "GET", "/v1/files/read?path="+name, nil, nil) != 200 {
		if time.Now().After(deadline) {
			t.Fatalf("no file %s", name)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestSleepWithoutStore keeps a session that cannot be stored, says why, and lets
// it sleep when it can be.
func TestSleepWithoutStore(t *testing.T) {
	f := newFixture(t)
	f.run(t, map[string]any{"command": "echo kept >file"})
	f.rests().fail(errors.New("Consul is away"))
	if status := f.call(t, "POST", "/v1/sleep", map[string]any{"state": "deep-sleep"}, nil); status != 503 {
		t.Errorf("sleep: status %d", status)
	}
	if info := f.info(t); info.State != lifeIdle || !strings.Contains(info.Durability.Problem, "Consul is away") {
		t.Errorf("%+v", info)
	}
	if r := f.run(t, map[string]any{"command": "cat file"}); r.Stdout != "kept\n" {
		t.Errorf("%+v", r)
	}
	f.rests().fail(nil)
	if status := f.call(t, "POST", "/v1/sleep", map[string]any{"state": "deep-sleep"}, nil); status != 200 {
		t.Errorf("sleep: status %d", status)
	}
	f.gone(t)
	f.wake(t)
	if r := f.run(t, map[string]any{"command": "cat file"}); r.Stdout != "kept\n" {
		t.Errorf("%+v", r)
	}
}

// TestSleepBySelf goes from use to deep sleep with nobody asking for it.
func TestSleepBySelf(t *testing.T) {
	f := newFixtureOf(t, fixtureOptions{idleAfter: 200 * time.Millisecond, sleepAfter: 5 * time.Second})
	f.run(t, map[string]any{"command": "echo kept >file"})
	f.awaitIdle(t)
	if next := f.info(t).NextTransition; next == nil || next.To != lifeAsleep {
		t.Errorf("next %v", next)
	}
	f.gone(t)
	f.wake(t)
	if r := f.run(t, map[string]any{"command": "cat file"}); r.Stdout != "kept\n" {
		t.Errorf("%+v", r)
	}
}

// TestStopSleeps: a stop of the task, as by a drain, is a sleep; that of a session
// without a record is not.
func TestStopSleeps(t *testing.T) {
	f := newFixture(t)
	f.run(t, map[string]any{"command": "echo kept >file"})
	if err := f.instance.Stop(t.Context(), 15, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	f.gone(t)
	f.wake(t)
	if r := f.run(t, map[string]any{"command": "cat file"}); r.Stdout != "kept\n" {
		t.Errorf("%+v", r)
	}
	f.rests().want(0)
	if err := f.instance.Stop(t.Context(), 15, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	if r := f.rests().at(f.task.Session.Epoch); r.Asleep {
		t.Errorf("a deleted session was stored: %+v", r)
	}
}

// TestCheckpoints leaves a node from one moment to the other: what was there at the
// last checkpoint wakes.
func TestCheckpoints(t *testing.T) {
	f := newFixtureOf(t, fixtureOptions{checkpointEvery: 200 * time.Millisecond})
	f.run(t, map[string]any{"command": "echo kept >file; sync"})
	deadline := time.Now().Add(30 * time.Second)
	for f.info(t).Durability.LastCheckpoint == "" || f.info(t).Durability.Dirty {
		if time.Now().After(deadline) {
			t.Fatalf("no checkpoint: %+v", f.info(t).Durability)
		}
		time.Sleep(20 * time.Millisecond)
	}
	epoch := f.task.Session.Epoch
	if f.rests().at(epoch).Asleep {
		t.Error("a checkpoint says that the session is asleep")
	}
	f.rests().seal(epoch)
	old := f.instance
	f.wakeApart(t)
	if r := f.run(t, map[string]any{"command": "cat file"}); r.Stdout != "kept\n" {
		t.Errorf("%+v", r)
	}
	// The node that was given up cannot overwrite anything any more.
	if err := old.Stop(t.Context(), 15, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	if r := f.rests().at(epoch); r.Asleep || !r.Sealed {
		t.Errorf("%+v", r)
	}
}

// wakeApart is wake beside the life before, which does not know yet that it is over.
func (f *fixture) wakeApart(t *testing.T) {
	t.Helper()
	task := *f.task
	f.task = &task
	f.task.API, f.task.Preview = freeAddress(t), freeAddress(t)
	old := f.instance
	f.wake(t)
	now := f.instance
	t.Cleanup(func() {
		for _, i := range []driver.Instance{old, now} {
			if err := i.Destroy(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestUncertainNote loses the answer to the note that the session is asleep. It goes
// on here, and nobody may take it for asleep once it does.
func TestUncertainNote(t *testing.T) {
	f := newFixture(t)
	f.run(t, map[string]any{"command": "echo before >file"})
	f.rests().mu.Lock()
	f.rests().deaf = true
	f.rests().mu.Unlock()
	if status := f.call(t, "POST", "/v1/sleep", map[string]any{"state": "deep-sleep"}, nil); status != 503 {
		t.Errorf("sleep: status %d", status)
	}
	if !f.rests().at(1).Asleep {
		t.Fatal("the note was not stored")
	}
	f.rests().fail(errors.New("Consul is away"))
	if status := f.call(t, "GET", "/v1/files/list", nil, nil); status != 503 {
		t.Errorf("used while somebody may take it for asleep: status %d", status)
	}
	f.rests().fail(nil)
	f.run(t, map[string]any{"command": "echo after >file"})
	if f.rests().at(1).Asleep {
		t.Error("a session that is in use is noted as asleep")
	}
	if status := f.call(t, "POST", "/v1/sleep", map[string]any{"state": "deep-sleep"}, nil); status != 200 {
		t.Errorf("sleep: status %d", status)
	}
	f.gone(t)
	f.wake(t)
	if r := f.run(t, map[string]any{"command": "cat file"}); r.Stdout != "after\n" {
		t.Errorf("%+v", r)
	}
}

// TestAsleepBeforeItEnded: the plugin died when the session was noted as asleep, and
// its sandbox still there. Whoever wakes it takes the snapshot; what it came to here
// would be lost.
func TestAsleepBeforeItEnded(t *testing.T) {
	f := newFixture(t)
	f.run(t, map[string]any{"command": "echo kept >file"})
	if _, err := f.rests().Note(t.Context(), claim.Rest{Session: f.task.Session.ID, Epoch: 1, Alloc: f.task.AllocID, Asleep: true}, 0); err != nil {
		t.Fatal(err)
	}
	f.restart(t)
	f.gone(t)
}

// TestWritesDuringSleep has clients write while the session is put to sleep by force:
// what was answered with success is there afterwards.
func TestWritesDuringSleep(t *testing.T) {
	f := newFixture(t)
	f.run(t, map[string]any{"command": "true"})
	var clients sync.WaitGroup
	var mu sync.Mutex
	var acknowledged []string
	for c := range 4 {
		clients.Go(func() {
			for n := 0; ; n++ {
				name := fmt.Sprintf("file-%d-%d", c, n)
				if f.tryWrite(t, name) != 200 {
					return // it sleeps
				}
				mu.Lock()
				acknowledged = append(acknowledged, name)
				mu.Unlock()
			}
		})
	}
	if status := f.call(t, "POST", "/v1/sleep", map[string]any{"state": "deep-sleep", "force": true}, nil); status != 200 {
		t.Fatalf("sleep: status %d", status)
	}
	clients.Wait()
	f.gone(t)
	f.wake(t)
	for _, name := range acknowledged {
		if status := f.call(t, "GET", "/v1/files/read?path="+name, nil, nil); status != 200 {
			t.Fatalf("%s of %d files that were acknowledged: status %d", name, len(acknowledged), status)
		}
	}
}

// tryWrite is a write whose connection may break: 0.
func (f *fixture) tryWrite(t *testing.T, name string) int {
	body := strings.NewReader(`{"path":"` + name + `","content":"x"}`)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+f.task.API+"/v1/files/write", body)
	if err != nil {
		return 0
	}
	req.Header.Set("Authorization", "Bearer "+claim.Token([]byte(testSecret), f.task.Session.ID, f.task.Session.Epoch))
	res, err := f.client.Do(req)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

// TestKeyOnNode: what a session's snapshots are sealed with is nowhere below state_dir,
// awake, stored, or woken, whoever restores its files.
func TestKeyOnNode(t *testing.T) {
	f := newFixture(t)
	f.run(t, map[string]any{"command": "echo kept >file"})
	f.sleepAndWake(t)
	if r := f.run(t, map[string]any{"command": "cat file"}); r.Stdout != "kept\n" {
		t.Errorf("%+v", r)
	}
	key, err := f.rests().Key(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	forms := [][]byte{key[:], []byte(hex.EncodeToString(key[:])), []byte(base64.StdEncoding.EncodeToString(key[:])), []byte(base64.RawURLEncoding.EncodeToString(key[:]))}
	encoded, err := json.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	forms = append(forms, bytes.Trim(encoded, `"`))
	looked := 0
	err = filepath.WalkDir(f.config.StateDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		looked++
		for _, form := range forms {
			if bytes.Contains(text, form) {
				t.Errorf("the key is in %s", path)
			}
		}
		return nil
	})
	if err != nil || looked < 3 {
		t.Errorf("looked at %d files: %v", looked, err)
	}
}

// TestSnapshotsTakeTurns: checkpoints and sleeps that nobody waits for are made a few at
// a time on a node, and a sleep that somebody asks for does not wait for them.
func TestSnapshotsTakeTurns(t *testing.T) {
	others := func(a *Agent) {
		for range nodeSaves {
			a.saves <- struct{}{}
		}
	}
	f := newFixtureOf(t, fixtureOptions{checkpointEvery: 50 * time.Millisecond, idleAfter: 50 * time.Millisecond, sleepAfter: 100 * time.Millisecond, opened: others})
	i := f.instance.(*instance)
	for deadline := time.Now().Add(10 * time.Second); !i.sleepy.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the session does not want to sleep by itself")
		}
	}
	time.Sleep(500 * time.Millisecond) // without turns, it would be asleep by now
	if rest, _, _ := f.task.Rests.Load(t.Context(), 1); !rest.Snapshot.IsZero() {
		t.Error("a snapshot was taken out of turn")
	}
	<-f.agent.(*Agent).saves
	select {
	case <-i.box.Done():
	case <-time.After(10 * time.Second):
		t.Error("it is its turn, and it does not sleep")
	}
	if rest, _, _ := f.task.Rests.Load(t.Context(), 1); !rest.Asleep {
		t.Errorf("noted: %+v", rest)
	}

	asked := newFixtureOf(t, fixtureOptions{opened: others})
	if code := asked.call(t, "POST", "/v1/sleep", map[string]any{"state": lifeAsleep}, nil); code != http.StatusOK {
		t.Errorf("sleep: status %d", code)
	}
}
