// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package buntime is a client of Buntime's HTTP API: sessions, which are isolated Bun
// runtimes with files and processes that stay, and executions in them.
//
//	client, err := buntime.FromEnv()
//	session, err := client.Create(ctx, buntime.CreateRequest{})
//	result, err := client.Execute(ctx, buntime.ExecuteRequest{SessionID: session.SessionID, Code: "console.log(6 * 7)"})
//
// What fails is an *Error, with the API's code, or with Status 0 where no answer came.
// A call is made again after a broken connection, 429 with Retry-After, and 500, 502,
// 503 or 504; code never runs twice: create and execute carry an Idempotency-Key, under
// which the server does them once and answers a repeated request as the first.
package buntime

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Client calls the API. Its fields are not to be changed while it is in use; its methods
// may be called from any goroutine.
type Client struct {
	// BaseURL is where the API is, without a final slash.
	BaseURL string
	// Key is an API key, btk_….
	Key string
	// HTTP makes the requests. It should follow no redirect, which would take the key
	// along. Default: see New.
	HTTP *http.Client
	// Timeout bounds each try of a call that is neither an execution nor a stream, until
	// its answer is read. Default 30 s. An execution has its own time-out and 20 s more.
	Timeout time.Duration
	// MaxRetries is how often a call is tried again. New sets 2.
	MaxRetries int
	// RetryDelay is before the first further try, and doubles, unless the server says
	// when. Default 1 s.
	RetryDelay time.Duration
	// OnRetry, if not nil, is told before each further try.
	OnRetry func(err error, attempt int)
	// UserAgent is sent with each request.
	UserAgent string
}

const (
	defaultTimeout    = 30 * time.Second
	defaultRetries    = 2
	defaultRetryDelay = time.Second
	// executionSlack is how much longer than an execution's own time-out its answer
	// may take: a session that sleeps wakes first.
	executionSlack = 20 * time.Second
	// longestExecution is that of an execution whose time-out is the session's.
	longestExecution = 300 * time.Second
)

// New is a client of the API at baseURL.
func New(baseURL, key string) *Client {
	return &Client{
		BaseURL: strings.TrimRight(baseURL, "/"), Key: key, MaxRetries: defaultRetries, UserAgent: "buntime-go",
		HTTP: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
}

// FromEnv is New with BUNTIME_BASE_URL and BUNTIME_API_KEY of the environment.
func FromEnv() (*Client, error) {
	base, key := os.Getenv("BUNTIME_BASE_URL"), os.Getenv("BUNTIME_API_KEY")
	if base == "" || key == "" {
		return nil, errors.New("set BUNTIME_BASE_URL and BUNTIME_API_KEY")
	}
	return New(base, key), nil
}

// repeat is whether a call may be made a second time when it may have been done.
type repeat int

const (
	always repeat = iota // to do it twice is to do it once, as with a key
	unsent               // only if nothing of it can have been done
)

// call is one call of the API.
type call struct {
	method, path string
	query        url.Values
	header       http.Header
	body         any       // sent as JSON
	stream       io.Reader // sent as it is, and once
	kind         string    // of stream
	repeat       repeat
	limit        time.Duration // of each try; 0: none but the context's
	// gone is the code of an error that means, after a try of which nobody knows
	// whether it was done, that it was.
	gone string
}

// try makes a call, again where that is right, until take has taken its answer. What
// breaks off before counts as no answer.
func (c *Client) try(ctx context.Context, call call, take func(*http.Response) error) error {
	unsure := false
	for attempt := 1; ; attempt++ {
		res, err := c.once(ctx, call) //nolint:bodyclose // take closes it
		if err == nil {
			err = take(res)
		}
		e, ok := errors.AsType[*Error](err)
		switch {
		case err == nil, ok && unsure && call.gone != "" && e.Code == call.gone:
			return nil
		case !ok, ctx.Err() != nil, attempt > c.MaxRetries, call.stream != nil, !e.mayRepeat(call.repeat):
			return err
		}
		unsure = unsure || !e.notDone()
		if err := c.wait(ctx, e, attempt); err != nil {
			return err
		}
	}
}

// open makes a call whose answer's body is for the caller to read, and to close.
func (c *Client) open(ctx context.Context, call call) (res *http.Response, err error) {
	err = c.try(ctx, call, func(r *http.Response) error { res = r; return nil })
	return res, err
}

// wait tells of a further try, and waits until it is time for it.
func (c *Client) wait(ctx context.Context, e *Error, attempt int) error {
	if c.OnRetry != nil {
		c.OnRetry(e, attempt)
	}
	delay := c.RetryDelay
	if delay <= 0 {
		delay = defaultRetryDelay
	}
	delay <<= attempt - 1
	if e.RetryAfter > 0 {
		delay = e.RetryAfter
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// once makes one request. An answer that is an error is returned as one.
func (c *Client) once(ctx context.Context, call call) (*http.Response, error) {
	what := call.method + " " + call.path
	cancel := func() {}
	if call.limit > 0 {
		ctx, cancel = context.WithTimeoutCause(ctx, call.limit, &Error{Code: CodeClientTimeout, Message: fmt.Sprintf("%s: no answer in %v", what, call.limit)})
	}
	var body io.Reader
	kind := ""
	switch {
	case call.stream != nil:
		body, kind = call.stream, call.kind
	case call.body != nil:
		text, err := json.Marshal(call.body)
		if err != nil {
			cancel()
			return nil, fmt.Errorf("%s: encode the request: %w", what, err)
		}
		body, kind = bytes.NewReader(text), "application/json"
	}
	target := c.BaseURL + call.path
	if len(call.query) > 0 {
		target += "?" + call.query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, call.method, target, body)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	maps.Copy(r.Header, call.header)
	r.Header.Set("Authorization", "Bearer "+c.Key)
	r.Header.Set("User-Agent", c.UserAgent)
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	res, err := c.HTTP.Do(r)
	if err != nil {
		err = broken(ctx, what, err)
		cancel()
		return nil, err
	}
	res.Body = &answer{res.Body, ctx, cancel, what}
	if res.StatusCode >= http.StatusMultipleChoices {
		defer res.Body.Close()
		return nil, refusal(what, res)
	}
	return res, nil
}

// answer is a body that ends what bounds its call when it is closed, and whose errors
// say what was read.
type answer struct {
	io.ReadCloser
	ctx    context.Context
	cancel func()
	what   string
}

// Read implements io.Reader.
func (a *answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = broken(a.ctx, a.what, err)
	}
	return n, err
}

// Close implements io.Closer.
func (a *answer) Close() error {
	defer a.cancel()
	return a.ReadCloser.Close()
}

// limit is Timeout, or its default.
func (c *Client) limit() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return defaultTimeout
}

// json makes a call whose answer is JSON, and decodes it into out; nil drops it.
func (c *Client) json(ctx context.Context, call call, out any) (header http.Header, err error) {
	if call.limit == 0 {
		call.limit = c.limit()
	}
	err = c.try(ctx, call, func(res *http.Response) error {
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		if out != nil {
			if err := json.Unmarshal(text, out); err != nil {
				return &Error{Code: CodeInvalidResponse, Status: res.StatusCode, Message: fmt.Sprintf("%s %s: the answer is not what this client knows: %v", call.method, call.path, err)}
			}
		}
		header = res.Header
		return nil
	})
	return header, err
}

// keyed gives a call one Idempotency-Key for all its tries.
func keyed(c call, key string) call {
	if key == "" {
		key = rand.Text()
	}
	c.header = http.Header{"Idempotency-Key": {key}}
	return c
}
