// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"net/http"
	"strconv"
)

// A front-end that does not know whether an execution has begun asks for its answer
// instead of sending it again: it is what the execution's caller was told, or would
// have been, however long ago, and nothing is ever run.

// reserve waits until nobody else is beginning the execution of an id. Until free is
// called, nobody else does, nor is told that there is none.
func (s *Session) reserve(ctx context.Context, id string) (free func(), err error) {
	for {
		s.mu.Lock()
		other, taken := s.beginning[id]
		if !taken {
			mine := make(chan struct{})
			if s.beginning == nil {
				s.beginning = map[string]chan struct{}{}
			}
			s.beginning[id] = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.beginning, id)
				close(mine)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// begin is execute, once for each id.
func (s *Session) begin(ctx context.Context, req ExecuteRequest) (*execution, error) {
	free, err := s.reserve(ctx, req.ExecutionID)
	if err != nil {
		return nil, err
	}
	defer free()
	if e, ok := s.find(req.ExecutionID); ok {
		return e, nil
	}
	return s.execute(ctx, req)
}

// begun returns the execution of an id, nil if it is not in memory (any more).
func (s *Session) begun(ctx context.Context, id string) (*execution, error) {
	free, err := s.reserve(ctx, id)
	if err != nil {
		return nil, err
	}
	defer free()
	e, _ := s.find(id)
	return e, nil
}

// serveAnswer answers GET /v1/executions/{id}/answer as POST /v1/execute was answered.
func (s *Session) serveAnswer(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	e, err := s.begun(r.Context(), id)
	if err != nil {
		return err
	}
	var res Result
	if e != nil {
		res, err = s.answer(r.Context(), e)
	} else {
		res, err = s.pastAnswer(id)
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, res)
	return nil
}

// serveAnswerOutput is the same for an execution whose caller wants events.
func (s *Session) serveAnswerOutput(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	e, err := s.begun(r.Context(), id)
	if err != nil {
		return err
	}
	if e != nil {
		return ignoreGone(s.streamOutput(r.Context(), w, e, 0, e.answered))
	}
	return s.replayOutput(r.Context(), w, id, 0, s.pastAnswer)
}

// pastAnswer is the answer to an execution that is not in memory.
func (s *Session) pastAnswer(id string) (Result, error) {
	r, err := s.journal.answer(id)
	if err != nil {
		r, err = s.pastResult(id)
	}
	r.State = ""
	return r, err
}

// pastResult is what became of an execution that is not in memory, as its caller is
// told.
func (s *Session) pastResult(id string) (Result, error) {
	r, err := s.past(id)
	if err != nil {
		return r, err
	}
	return s.judge(r)
}

// past is what became of an execution that is not in memory. One that had not ended
// when it was last written down ended with its sandbox.
func (s *Session) past(id string) (Result, error) {
	r, err := s.journal.result(id)
	if err == nil && r.State != stateExited {
		r.State, r.Reason = stateExited, reasonInterrupted
		if !r.Background {
			r.ExitCode = 128 + 9
		}
	}
	return r, err
}

// judge makes of a result what its caller is told.
func (s *Session) judge(r Result) (Result, error) {
	if r.Reason == reasonOOM {
		return r, s.outOfMemory(r)
	}
	return r, nil
}

// replayOutput sends the output of an execution that is not in memory from offset on,
// and what result makes of it.
func (s *Session) replayOutput(ctx context.Context, w http.ResponseWriter, id string, offset int64, result func(id string) (Result, error)) error {
	if _, err := s.journal.result(id); err != nil {
		return err
	}
	out, text := newSSE(w), newDecoder(offset)
	err := s.journal.replay(ctx, id, offset, wholeJournal, func(p piece) error { return text.send(out, p) })
	if err != nil {
		return ignoreGone(out.event("error", "", envelope{asError(err)}))
	}
	if err := text.rest(out); err != nil {
		return ignoreGone(err)
	}
	res, err := result(id)
	if err != nil {
		return ignoreGone(out.event("error", "", envelope{asError(err)}))
	}
	return ignoreGone(out.event("result", strconv.FormatInt(text.offset, 10), res))
}
