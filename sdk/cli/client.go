// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"cmp"
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	buntime "github.com/buntime/buntime/sdk/go"
)

// client is a client of the API that the settings name.
func (a *app) client() (*buntime.Client, error) {
	url, key, err := a.where()
	if err != nil {
		return nil, err
	}
	return a.clientOf(url, key), nil
}

func (a *app) clientOf(url, key string) *buntime.Client {
	c := buntime.New(url, key)
	c.UserAgent, c.RetryDelay = "buntime-cli", a.retryDelay
	c.HTTP.Transport = &a.rate
	return c
}

// rate notes what the API says of how many requests there may be.
type rate struct {
	mu               sync.Mutex
	limit, remaining int
	reset            time.Time
}

// RoundTrip implements http.RoundTripper.
func (r *rate) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	limit, err := strconv.Atoi(res.Header.Get("X-RateLimit-Limit"))
	if err != nil {
		return res, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit = limit
	r.remaining, _ = strconv.Atoi(res.Header.Get("X-RateLimit-Remaining"))
	reset, _ := strconv.ParseInt(res.Header.Get("X-RateLimit-Reset"), 10, 64)
	r.reset = time.Unix(reset, 0)
	return res, nil
}

// spacing is how far apart calls of n requests have to be to leave half of what there
// may be to others.
func (r *rate) spacing(n int) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return 2 * time.Duration(n) * time.Minute / time.Duration(cmp.Or(r.limit, 100))
}

// allSessions lists them all, newest first.
func allSessions(ctx context.Context, c *buntime.Client, o buntime.ListOptions) ([]buntime.Listed, error) {
	o.Limit = 100
	all := []buntime.Listed{}
	for {
		page, err := c.List(ctx, o)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		o.Offset += len(page.Items)
		if len(page.Items) == 0 || o.Offset >= page.Total {
			return all, nil
		}
	}
}

// completionTimeout is what a shell may wait for the names of sessions.
const completionTimeout = 3 * time.Second

// completeSession completes the first argument, or each, to the id of a session.
func (a *app) completeSession(all bool, suffix string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 && !all {
			return nil, cobra.ShellCompDirectiveDefault
		}
		c, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		list, err := allSessions(ctx, c, buntime.ListOptions{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var ids []cobra.Completion
		for _, s := range list {
			ids = append(ids, cobra.CompletionWithDesc(s.SessionID+suffix, clean(s.State+" "+metadataText(s.Metadata))))
		}
		directive := cobra.ShellCompDirectiveNoFileComp
		if suffix != "" {
			directive = cobra.ShellCompDirectiveNoSpace
		}
		return ids, directive
	}
}
