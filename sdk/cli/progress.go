// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// patience is how long something may take before it is shown that it does.
	patience = time.Second
	redraw   = 200 * time.Millisecond
)

// working shows on a terminal, after a second, that something takes its time, until
// end is called.
func (a *app) working(what string) (end func()) { return a.progress(what, nil, 0) }

// progress is working with a count of bytes, of total if that is more than 0.
func (a *app) progress(what string, done *atomic.Int64, total int64) (end func()) {
	if _, ok := terminal(a.Err); !ok {
		return func() {}
	}
	stop := make(chan struct{})
	var drawing sync.WaitGroup
	begin := time.Now()
	drawing.Go(func() {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		for shown := false; ; shown = true {
			select {
			case <-timer.C:
			case <-stop:
				if shown {
					fmt.Fprint(a.Err, "\r\x1b[K")
				}
				return
			}
			fmt.Fprint(a.Err, "\r"+clean(what)+" "+bar(done, total, time.Since(begin))+"\x1b[K")
			timer.Reset(redraw)
		}
	})
	return sync.OnceFunc(func() { close(stop); drawing.Wait() })
}

// bar is how far something is.
func bar(done *atomic.Int64, total int64, took time.Duration) string {
	if done == nil {
		return span(took)
	}
	n := done.Load()
	rate := size(int64(float64(n)/took.Seconds())) + "/s"
	if total <= 0 {
		return size(n) + ", " + rate
	}
	const width = 24
	part := int(min(n, total) * width / total)
	return fmt.Sprintf("[%s%s] %s of %s, %s", strings.Repeat("#", part), strings.Repeat(".", width-part), size(n), size(total), rate)
}

// counted counts what is read.
type counted struct {
	io.Reader
	n *atomic.Int64
}

// Read implements io.Reader.
func (c counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}
