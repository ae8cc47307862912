// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// patience is how long the answer to any request is awaited: more than the longest
// deadline that the API has, and than any part stands still.
const patience = 75 * time.Second

// answer is what came of a request.
type answer struct {
	status  int // 0: none came
	code    string
	body    []byte
	begin   time.Time
	problem string
}

func (a answer) ok() bool { return a.status == http.StatusOK }

func (a answer) outcome() string {
	switch {
	case a.status == 0:
		return "no answer"
	case a.code != "":
		return fmt.Sprintf("%d %s", a.status, a.code)
	}
	return fmt.Sprint(a.status)
}

type object = map[string]any

// call sends a request through a front-end and looks whether such an answer may come.
// s is nil if it is about no session.
func (r *run) call(s *session, kind string, front int, c client.Call) answer {
	ctx, cancel := context.WithTimeoutCause(r.ctx, patience, fmt.Errorf("no answer in %v", patience))
	defer cancel()
	a := answer{begin: time.Now()}
	reply, err := r.apis[front].Do(ctx, c)
	if err != nil {
		a.problem = err.Error()
		if ctx.Err() != nil {
			a.problem = context.Cause(ctx).Error()
		}
	} else {
		a.status, a.body = reply.Status, reply.Body
		if reply.Status != http.StatusOK {
			a.explain(reply.Header)
		}
	}
	r.judge(s, kind, front, a)
	return a
}

// explain reads an error's envelope.
func (a *answer) explain(header http.Header) {
	var envelope struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.body, &envelope); err != nil || envelope.Error.Code == "" {
		a.problem = "no error of the API: " + string(a.body[:min(len(a.body), 300)])
		return
	}
	a.code, a.problem = envelope.Error.Code, envelope.Error.Message
	if a.status == http.StatusServiceUnavailable && header.Get("Retry-After") == "" {
		a.problem += " (without Retry-After)"
		a.code += "!"
	}
}

// visit fetches a session's page.
func (r *run) visit(s *session, front int) answer {
	ctx, cancel := context.WithTimeoutCause(r.ctx, patience, fmt.Errorf("no answer in %v", patience))
	defer cancel()
	a := answer{begin: time.Now()}
	url := "http://ses-" + s.id[len("ses_"):] + "." + r.Frontends[front].PreviewDomain + "/"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		panic(err) // an id of the API's makes a URL
	}
	res, err := r.apis[front].HTTP.Do(req)
	if err == nil {
		defer res.Body.Close()
		a.body, err = io.ReadAll(res.Body)
	}
	switch {
	case err != nil:
		a.problem = err.Error()
	default:
		a.status = res.StatusCode
		if res.StatusCode != http.StatusOK {
			a.problem = string(a.body[:min(len(a.body), 300)])
			if res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") == "" {
				a.code = "without Retry-After!"
			}
		}
	}
	r.judge(s, "preview", front, a)
	return a
}

// judge counts an answer, and says so if it may not be. What may be:
//
//   - 200;
//   - 503 service_unavailable with Retry-After, and 408, at any time: faults come all
//     the time, and what they have upset may take a while. That it does not take
//     long is looked at after each fault;
//   - 409 session_busy for a sleep without force;
//   - 404 file_not_found for a read: whether the file may be missing is the model's;
//   - 502 for a preview: nothing listens in the session;
//   - 404 session_not_found for a session of which a delete was sent, or that never
//     had a snapshot and whose node may have been lost (see missing);
//   - no answer from a front-end that was killed, or stood still, meanwhile or just
//     before.
func (r *run) judge(s *session, kind string, front int, a answer) {
	r.tally.count(kind, a.outcome())
	if s != nil {
		s.note("%s at front-end %d: %s after %.2fs %s", kind, front, a.outcome(), time.Since(a.begin).Seconds(), a.problem)
	}
	fine := false
	switch {
	case a.ok(), a.status == 503 && a.code == "service_unavailable", a.status == 503 && kind == "preview" && a.code == "",
		a.status == 408 && (a.code == "request_timeout" || a.code == "execution_timeout"),
		a.status == 409 && a.code == "session_busy" && kind == "sleep",
		a.status == 404 && a.code == "file_not_found" && kind == "read",
		a.status == 502 && kind == "preview":
		fine = true
	case a.status == 404 && (a.code == "session_not_found" || kind == "preview") && s != nil:
		fine = r.missing(s, kind)
	case a.status == 0:
		fine = r.faults.frontAway(front, a.begin)
	}
	if !fine {
		r.tally.violate(s, "%s at front-end %d: %s after %v: %s", kind, front, a.outcome(), time.Since(a.begin).Round(time.Millisecond), a.problem)
	}
	if s != nil {
		s.answering(a)
	}
}

// answering keeps how long a session does not answer.
func (s *session) answering(a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case a.status == 0, a.status == 503, a.status == 408:
		if s.failing.IsZero() {
			s.failing = a.begin
		}
	case !s.failing.IsZero():
		if over := s.run.faults.quietSince(); !over.IsZero() {
			if over.Before(s.failing) {
				over = s.failing
			}
			s.run.tally.answered("session "+s.key+", "+s.run.faults.last(), time.Since(over))
		}
		s.failing = time.Time{}
	}
}

// missing says whether there may be no session any more, and takes it for gone then.
func (r *run) missing(s *session, kind string) bool {
	s.mu.Lock()
	dropped, kept, gone := s.dropped, s.kept, s.gone
	s.mu.Unlock()
	switch {
	case dropped, gone != "":
		r.bury(s, "deleted")
		return true
	case kept, !r.faults.mayHaveLost(s.created):
		return false
	}
	r.tally.lost(fmt.Sprintf("session %s, of which there was no snapshot yet: %s (found by %s, %s)", s.key, r.faults.cause(), kind, r.elapsed()))
	r.bury(s, "lost with its node before its first snapshot")
	return true
}
