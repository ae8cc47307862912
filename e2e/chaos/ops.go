// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package chaos

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// create makes a session. One whose maker was not answered may be there all the same,
// with nobody to use it, until all are deleted at the end.
func (w *worker) create() {
	w.mu.Lock()
	w.made++
	key := fmt.Sprintf("s%d", w.made)
	w.mu.Unlock()
	s := &session{key: key, run: w.run, ends: map[uint64]end{}, created: time.Now()}
	front := w.any()
	a := w.call(nil, "create", front, client.Call{Method: "POST", Path: "/sessions/create", JSON: object{"metadata": object{"key": key}}})
	if !a.ok() {
		return
	}
	var c struct{ SessionID string }
	if err := json.Unmarshal(a.body, &c); err != nil || c.SessionID == "" {
		w.tally.violate(nil, "create answers %s", a.body)
		return
	}
	s.id = c.SessionID
	s.note("created at front-end %d, after %.2fs", front, time.Since(a.begin).Seconds())
	w.add(s)
}

// size of a file: mostly small, now and then one of which a wake has to fetch much.
func (w *worker) size(most int) int {
	switch w.rand.IntN(10) {
	case 0:
		return w.rand.IntN(most)
	case 1:
		return 0
	}
	return w.rand.IntN(8 << 10)
}

// write writes a file through the API.
func (w *worker) write(s *session) {
	files := s.take(1, true, w.rand.IntN)
	defer s.give(files)
	for _, f := range files {
		wr := s.plan(f, w.size(1<<20))
		text := base64.StdEncoding.EncodeToString(content(wr.header, wr.size))
		s.note("write %q to %s", wr.header, f.path)
		a := w.call(s, "write", w.any(), client.Call{Method: "POST", Path: "/files/write", JSON: object{
			"sessionId": s.id, "path": f.path, "content": text, "encoding": "base64",
		}})
		if a.ok() {
			s.done(f)
		} else {
			s.unsure(f)
		}
	}
}

// read reads a file through the API.
func (w *worker) read(s *session) {
	files := s.take(1, false, w.rand.IntN)
	defer s.give(files)
	for _, f := range files {
		w.readBack(s, f, w.any())
	}
}

// readBack reads a file that the caller has to itself, and says whether it was answered.
func (r *run) readBack(s *session, f *file, front int) bool {
	a := r.call(s, "read", front, client.Call{Method: "GET", Path: "/files/read", Query: url.Values{"sessionId": {s.id}, "path": {f.path}}})
	switch {
	case a.ok():
		r.saw(s, f, sum(a.body))
	case a.status == 404 && a.code == "file_not_found":
		r.saw(s, f, "")
	default:
		return false
	}
	return true
}

func (r *run) saw(s *session, f *file, sum string) {
	if err := s.observe(f, sum); err != nil {
		r.tally.violate(s, "%v", err)
	}
}

// execute writes some files and reads others in one execution.
func (w *worker) execute(s *session) {
	write := s.take(w.rand.IntN(3), true, w.rand.IntN)
	defer s.give(write)
	read := s.take(1+w.rand.IntN(4), false, w.rand.IntN)
	defer s.give(read)
	w.run.execute(s, w.any(), write, read, func() int { return w.size(128 << 10) })
}

// execute writes and reads files that the caller has to itself, and says whether that
// was done.
func (r *run) execute(s *session, front int, write, read []*file, size func() int) bool {
	type item = []any
	writes, reads := []item{}, []string{}
	for _, f := range write {
		wr := s.plan(f, size())
		writes = append(writes, item{f.path, wr.header, wr.size})
		s.note("execute writes %q to %s", wr.header, f.path)
	}
	for _, f := range read {
		reads = append(reads, f.path)
	}
	work, err := json.Marshal(object{"write": writes, "read": reads})
	if err != nil {
		panic(err) // it is made of text and numbers
	}
	a := r.call(s, "execute", front, client.Call{Method: "POST", Path: "/execute", JSON: object{
		"sessionId": s.id, "code": fmt.Sprintf(program, work),
	}})
	sums, ok := r.result(s, a, len(read))
	for _, f := range write {
		if ok {
			s.done(f)
		} else {
			s.unsure(f)
		}
	}
	if !ok {
		return false
	}
	for n, f := range read {
		r.saw(s, f, sums[n])
	}
	return true
}

// result is what an execution has read. Not ok is one that was not done, or not to
// its end.
func (r *run) result(s *session, a answer, reads int) (sums []string, ok bool) {
	if !a.ok() {
		return nil, false
	}
	var e struct {
		Stdout, Stderr, Reason string
		ExitCode               int
		TimedOut               bool
	}
	if err := json.Unmarshal(a.body, &e); err != nil {
		r.tally.violate(s, "execute answers %s", a.body)
		return nil, false
	}
	switch {
	case e.Reason == "exit" && e.ExitCode == 0:
		if err := json.Unmarshal([]byte(e.Stdout), &sums); err != nil || len(sums) != reads {
			r.tally.violate(s, "an execution that ended well has said %q", e.Stdout)
			return nil, false
		}
		return sums, true
	case e.Reason == "interrupted", e.TimedOut:
		// Its node had to put the session to sleep, or files that had not come did not.
		r.tally.count("executions", e.Reason)
	case r.faults.storeAway(a.begin):
		// What the session had not got yet of its files cannot be read.
		r.tally.count("executions", "failed while the store was away")
		s.note("execution failed: %s %d %s", e.Reason, e.ExitCode, e.Stderr)
	default:
		r.tally.violate(s, "an execution ended with %s, code %d: %s%s", e.Reason, e.ExitCode, e.Stdout, e.Stderr)
	}
	return nil, false
}

// info looks at a session, which does not wake it, and learns what is stored.
func (w *worker) info(s *session) {
	before := w.witness.look(s)
	a := w.call(s, "info", w.any(), client.Call{Method: "GET", Path: "/sessions/" + s.id})
	if !a.ok() {
		return
	}
	var i struct {
		State      string
		Durability *struct {
			LastCheckpoint time.Time
			Dirty, Lost    bool
		}
	}
	if err := json.Unmarshal(a.body, &i); err != nil {
		w.tally.violate(s, "info answers %s: %v", a.body, err)
		return
	}
	after := w.witness.look(s)
	d := i.Durability
	if d == nil || before.Epoch == 0 || before.Epoch != after.Epoch {
		return
	}
	s.note("info: %s, durability %+v", i.State, *d)
	const settled = 3 * time.Second // what a front-end may take to know of a record
	if before.Since.Equal(after.Since) && a.begin.Sub(after.Since) > settled && d.Lost != after.Lost {
		w.tally.violate(s, "info says lost: %t, the record %t", d.Lost, after.Lost)
	}
	if before.State == deepSleep || after.State == deepSleep {
		return // what is stored then the record's end of life says
	}
	if !d.LastCheckpoint.IsZero() {
		s.checkpointed(before.Epoch, d.LastCheckpoint)
	}
	if !d.Dirty {
		s.checkpointed(before.Epoch, a.begin)
	}
}

// page is code of a server that says whose it is.
const page = `Bun.serve({ port: 8080, fetch: () => new Response("page of %s") })`

// preview visits a session's page, and starts its server if there is none.
func (w *worker) preview(s *session) {
	a := w.visit(s, w.any())
	switch want := "page of " + s.key; {
	case a.ok() && string(a.body) != want:
		w.tally.violate(s, "the preview shows %q", a.body)
	case a.status == 502:
		// Whatever becomes of it: another worker may have started one.
		w.call(s, "serve", w.any(), client.Call{Method: "POST", Path: "/execute", JSON: object{"sessionId": s.id, "code": fmt.Sprintf(page, s.key)}})
	}
}

// sleep puts a session to rest.
func (w *worker) sleep(s *session) {
	state := []string{"idle", deepSleep, deepSleep}[w.rand.IntN(3)]
	a := w.call(s, "sleep", w.any(), client.Call{Method: "POST", Path: "/sessions/" + s.id + "/sleep", JSON: object{"state": state, "force": w.rand.IntN(2) == 0}})
	if a.ok() && state == deepSleep {
		s.note("sleeps")
		w.witness.look(s) // how the life has ended
	}
}

// list wants every session that is there, and none that is not.
func (w *worker) list(*session) {
	w.mu.Lock()
	there, graves := append([]*session{}, w.alive...), append([]*session{}, w.graves...)
	w.mu.Unlock()
	front := w.any()
	a := w.call(nil, "list", front, client.Call{Method: "GET", Path: "/sessions", Query: url.Values{"limit": {"100"}}})
	if !a.ok() {
		return
	}
	for _, s := range graves {
		if s.gone == "deleted" && strings.Contains(string(a.body), s.id) {
			w.tally.violate(s, "front-end %d lists a session that was deleted", front)
		}
	}
	var page struct {
		Sessions []struct{ SessionID string }
	}
	if err := json.Unmarshal(a.body, &page); err != nil || len(page.Sessions) >= 100 {
		return // there may be more on the next page
	}
	for _, s := range there {
		if !strings.Contains(string(a.body), s.id) && !w.maybeGone(s) {
			w.tally.violate(s, "front-end %d does not list a session that is there", front)
		}
	}
}

// maybeGone says whether a session may not be there, or not any more.
func (r *run) maybeGone(s *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped || s.gone != "" || !s.kept && r.faults.mayHaveLost(s.created)
}

// drop deletes a session.
func (w *worker) drop(s *session) { w.remove(s, w.any()) }

// remove deletes a session, and says whether that is sure.
func (r *run) remove(s *session, front int) bool {
	s.mu.Lock()
	s.dropped = true
	s.mu.Unlock()
	a := r.call(s, "delete", front, client.Call{Method: "DELETE", Path: "/sessions/" + s.id})
	if !a.ok() && a.status != 404 {
		return false
	}
	s.mu.Lock()
	if s.deleted.IsZero() {
		s.deleted = time.Now()
	}
	s.mu.Unlock()
	r.bury(s, "deleted")
	for n := range r.apis {
		r.haunt(s, n, "info")
		r.haunt(s, n, "read")
	}
	return true
}

// ghost asks for a session that was deleted some time ago.
func (w *worker) ghost(*session) {
	w.mu.Lock()
	if len(w.graves) == 0 {
		w.mu.Unlock()
		return
	}
	graves := w.graves
	if w.rand.IntN(2) == 0 {
		graves = graves[max(0, len(graves)-2):] // what somebody may believe in still
	}
	s := graves[w.rand.IntN(len(graves))]
	w.mu.Unlock()
	w.haunt(s, w.any(), []string{"info", "read", "execute", "sleep", "preview"}[w.rand.IntN(5)])
}

// believed is for how long a front-end may still tell of a session that was deleted
// at another one: it reads a record once a second.
const believed = 1500 * time.Millisecond

// haunt wants no answer of a session that is gone. Info, which reads but the record,
// has a moment.
func (r *run) haunt(s *session, front int, kind string) {
	var a answer
	begin := time.Now()
	switch kind {
	case "info":
		a = r.call(s, "ghost", front, client.Call{Method: "GET", Path: "/sessions/" + s.id})
	case "read":
		a = r.call(s, "ghost", front, client.Call{Method: "GET", Path: "/files/list", Query: url.Values{"sessionId": {s.id}}})
	case "execute":
		a = r.call(s, "ghost", front, client.Call{Method: "POST", Path: "/execute", JSON: object{"sessionId": s.id, "command": "true"}})
	case "sleep":
		a = r.call(s, "ghost", front, client.Call{Method: "POST", Path: "/sessions/" + s.id + "/sleep", JSON: object{"state": "idle"}})
	case "preview":
		a = r.visit(s, front)
	}
	s.mu.Lock()
	since := begin.Sub(s.deleted)
	s.mu.Unlock()
	if a.status >= http.StatusOK && a.status < 300 || a.status == http.StatusBadGateway {
		if kind == "info" && since < believed {
			r.tally.count("ghost", "told of a moment later")
			return
		}
		r.tally.violate(s, "%s at front-end %d answers %d, %v after the session was gone (%s)", kind, front, a.status, since.Round(time.Millisecond), s.gone)
	}
}
