// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/node"
	"github.com/buntime/buntime/frontend/timing"
)

const keyHeader = "Idempotency-Key"

const (
	// beginWithin is how long who has noted a request may take to begin with it; a
	// create is done by then, or undone.
	beginWithin = 20 * time.Second
	// skew is how much longer others wait before they believe that nobody is at it:
	// their clocks are not the same.
	skew = 5 * time.Second
	// receiptTimeout bounds what is noted when the answer is known already.
	receiptTimeout = 5 * time.Second
)

// Repeatable is the part of an input that is its Idempotency-Key.
type Repeatable struct {
	Key string `header:"Idempotency-Key" pattern:"^[!-~]{1,255}$" doc:"Any name for this request, of 1 to 255 printable ASCII characters without spaces. What arrives with it again within 24 hours is answered as the first was and not done again; a request with another body is refused. A request of which nothing was done leaves the key free. The answer has the same header."`
}

// Resolve implements huma.Resolver. By the header in the answer clients know that
// they may repeat a request.
func (r *Repeatable) Resolve(ctx huma.Context) []error {
	if r.Key != "" {
		ctx.SetHeader(keyHeader, r.Key)
	}
	return nil
}

// echoed describes the header of the answer.
func echoed() *huma.Header {
	return &huma.Header{Description: "That of the request, if it had one.", Schema: &huma.Schema{Type: huma.TypeString}}
}

// receiptName is what the receipt of an account's request is kept under.
func receiptName(account, key string) string {
	sum := sha256.Sum256([]byte(account + "\x00" + key)) // no account has a NUL
	return hex.EncodeToString(sum[:16])
}

// newReceipt is the receipt of a request to an operation. body is a hash.
func (s *Server) newReceipt(method, path string, body [sha256.Size]byte) *frontend.Receipt {
	sum := sha256.Sum256(append([]byte(method+" "+path+"\x00"), body[:]...))
	now := s.Sessions.Now().UTC().Truncate(time.Second)
	return &frontend.Receipt{
		Request: hex.EncodeToString(sum[:16]), Ends: now.Add(frontend.ReceiptsKept), Until: now.Add(beginWithin),
	}
}

// note stores the receipt of a request that is to be served now, or returns that of
// the equal request that came first. It looks before it writes if the request is known
// to be a repeated one.
func (s *Server) note(ctx context.Context, name string, mine *frontend.Receipt, repeated bool) (first *frontend.Receipt, err error) {
	defer timing.Start(ctx, "kv")()
	for mine.Version = 0; ; repeated = true {
		if repeated {
			first, err := s.Sessions.Store.Receipt(ctx, name)
			switch {
			case errors.Is(err, frontend.ErrNotFound): // nothing came of it
				mine.Version = 0
			case err != nil:
				return nil, fmt.Errorf("%w; %w", underway(), err)
			case !s.Sessions.Now().Before(first.Ends):
				mine.Version = first.Version
			case first.Request != mine.Request:
				return nil, frontend.Errorf(frontend.CodeIdempotencyConflict, "this %s came with another request before; use a new one for each", keyHeader)
			default:
				return first, nil
			}
		}
		err := s.Sessions.Store.PutReceipt(ctx, name, mine)
		switch {
		case err == nil:
			return nil, nil
		case !errors.Is(err, frontend.ErrConflict):
			return nil, fmt.Errorf("%w; %w", frontend.Unavailable("the request could not be noted; try again"), err)
		}
	}
}

// given says whether nobody is at a noted request any more that has not begun yet.
func (s *Server) given(r *frontend.Receipt) bool { return s.Sessions.Now().After(r.Until.Add(skew)) }

// free makes the key of a request of which nothing was done free again.
func (s *Server) free(ctx context.Context, name string, mine *frontend.Receipt) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), receiptTimeout)
	defer cancel()
	if err := s.Sessions.Store.DropReceipt(ctx, name, mine); err != nil {
		logger(ctx).Warn("delete receipt; its request can be repeated later", "err", err)
	}
}

// underway is the answer to a repeated request while the first has none.
func underway() *frontend.Error {
	return frontend.Unsure("the first request with this %s has no answer yet; try again", keyHeader)
}

// createOnce is create for a request with an Idempotency-Key.
func (s *Server) createOnce(ctx context.Context, in *createInput) (*createOutput, error) {
	name := receiptName(caller(ctx).Account, in.Key)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		mine := s.newReceipt(http.MethodPost, createPath, in.sum)
		first, err := s.note(ctx, name, mine, pause > firstPause)
		if err != nil {
			return nil, err
		}
		if first == nil {
			return s.createNoted(ctx, in, name, mine)
		}
		out, err := s.createdBefore(ctx, name, first)
		if out != nil || err != nil {
			return out, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, underway()
		}
	}
}

// createNoted creates a session and notes the answer.
func (s *Server) createNoted(ctx context.Context, in *createInput, name string, mine *frontend.Receipt) (*createOutput, error) {
	out, err := s.createNow(ctx, in, name)
	if err != nil {
		s.free(ctx, name, mine)
		return nil, err
	}
	if err := s.noteAnswer(ctx, name, mine, out); errors.Is(err, frontend.ErrConflict) {
		// This front-end stood still for so long that another has taken it over.
		return nil, errors.Join(underway(), s.Sessions.Delete(context.WithoutCancel(ctx), caller(ctx).Account, out.Body.SessionID))
	} else if err != nil {
		logger(ctx).Warn("note the answer to a create; a repeated one looks for the session", "err", err)
	}
	return out, nil
}

// noteAnswer completes a receipt.
func (s *Server) noteAnswer(ctx context.Context, name string, r *frontend.Receipt, out *createOutput) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), receiptTimeout)
	defer cancel()
	defer timing.Start(ctx, "kv")()
	var err error
	if r.Answer, err = json.Marshal(out.Body); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	return s.Sessions.Store.PutReceipt(ctx, name, r)
}

// createdBefore is the answer to a create that came before. It is nil, without an
// error, when that has none yet, or has come to nothing.
func (s *Server) createdBefore(ctx context.Context, name string, first *frontend.Receipt) (*createOutput, error) {
	out := new(createOutput)
	switch {
	case first.Answer != nil:
		if err := json.Unmarshal(first.Answer, &out.Body); err != nil {
			return nil, fmt.Errorf("decode answer in receipt: %w", err)
		}
		return out, nil
	case !s.given(first):
		return nil, nil
	}
	// Its front-end has died over it, before the record was stored or after.
	sess, err := s.Sessions.Made(ctx, caller(ctx).Account, name)
	switch {
	case errors.Is(err, frontend.ErrNotFound):
		s.free(ctx, name, first)
		return nil, nil
	case err != nil:
		return nil, err
	}
	out.Body = s.created(sess)
	if err := s.noteAnswer(ctx, name, first, out); err != nil && !errors.Is(err, frontend.ErrConflict) {
		logger(ctx).Warn("note the answer to a create", "err", err)
	}
	return out, nil
}

// executeOnce is execute for a request with an Idempotency-Key: its execution's id is
// noted before the node gets it, and the answer to a repeated request is found by
// that id.
func (s *Server) executeOnce(ctx context.Context, in *executeInput, c call, id string) (*raw, error) {
	name := receiptName(caller(ctx).Account, in.Key)
	begin := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		mine := s.newReceipt(http.MethodPost, "/execute", in.sum)
		mine.Execution, c.before = id, mine.Until
		first, err := s.note(ctx, name, mine, pause > firstPause)
		if err != nil {
			return nil, err
		}
		if first == nil {
			return s.executeNoted(ctx, c, name, mine)
		}
		a, err := s.follow(ctx, in, c, first)
		switch {
		case err != nil:
			return nil, err
		case a != nil:
			return a.pass(executionHeader, first.Execution), nil
		case s.given(first):
			return nil, s.lost(ctx, name, first)
		case time.Since(begin) > c.within:
			return nil, underway()
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, underway()
		}
	}
}

// executeNoted runs what was noted. The key stays free if nothing has begun.
func (s *Server) executeNoted(ctx context.Context, c call, name string, mine *frontend.Receipt) (*raw, error) {
	a, err := s.call(ctx, c)
	if err != nil {
		if _, began := errors.AsType[*unsure](err); !began {
			s.free(ctx, name, mine)
		}
		return nil, err
	}
	if a.Header.Get(node.DoneHeader) == node.DoneNo {
		s.free(ctx, name, mine)
	}
	return a.pass(executionHeader, mine.Execution), nil
}

// follow waits for the answer of an execution that was begun before, and reads its
// output from the first byte if it is streamed. It is nil if the node knows nothing
// of it.
func (s *Server) follow(ctx context.Context, in *executeInput, c call, first *frontend.Receipt) (*answer, error) {
	c.request = node.Request{Method: http.MethodGet, Path: executionPath(first.Execution) + "/answer"}
	if in.value.Stream {
		c.request.Path += "/output"
	}
	c.before = time.Time{}
	c.late = frontend.Errorf(frontend.CodeExecutionTimeout, "the execution has no result after %v; look it up with GET /executions/%s", c.within, first.Execution).Unsure()
	a, err := s.call(ctx, c)
	if err != nil {
		return nil, err
	}
	if a.StatusCode == http.StatusNotFound {
		a.drop()
		return nil, nil
	}
	return a, nil
}

// lost is the answer to a repeated execute of which the session's node knows nothing
// and nobody is at any more, unless its key has become free meanwhile.
func (s *Server) lost(ctx context.Context, name string, first *frontend.Receipt) error {
	stop := timing.Start(ctx, "kv")
	now, err := s.Sessions.Store.Receipt(ctx, name)
	stop()
	if errors.Is(err, frontend.ErrNotFound) || err == nil && now.Version != first.Version {
		return frontend.Unavailable("the first request with this %s was not done; try again", keyHeader)
	}
	return frontend.Errorf(frontend.CodeIdempotencyConflict,
		"the first request with this %s was cut off, and the session knows nothing of it: it may have been run or not, and is not run again; use a new key to run it", keyHeader).Unsure()
}
