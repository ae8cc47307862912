// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// BenchmarkExecute is a trivial execution through the API, over loopback and
// kept connections, beside the same request sent to the node at once. The node
// answers without delay, so that the difference is what the front-end adds.
func BenchmarkExecute(b *testing.B) {
	w := newWorld(b)
	id := w.create(paid)
	answer := says(`{"stdout":"1\n","stderr":"","exitCode":0,"executionTime":1.5,"memoryUsed":1,"cpuTime":1,"timedOut":false,"filesWritten":[],"executionId":"x","pid":1,"background":false,"reason":"exit","truncated":{"stdout":0,"stderr":0}}`)
	direct := httptest.NewServer(answer)
	defer direct.Close()
	w.node.Config.Handler = answer // without notes
	front := httptest.NewServer(w)
	defer front.Close()

	for _, target := range []struct{ name, url string }{{"node", direct.URL}, {"front-end", front.URL}} {
		b.Run(target.name, func(b *testing.B) {
			client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
			defer client.CloseIdleConnections()
			body := fmt.Sprintf(`{"sessionId":%q,"code":"console.log(1)"}`, id)
			var took []time.Duration
			for b.Loop() {
				begin := time.Now()
				r, err := http.NewRequest("POST", target.url+"/execute", strings.NewReader(body))
				if err != nil {
					b.Fatal(err)
				}
				r.Header.Set("Authorization", "Bearer "+paid)
				r.Header.Set("Content-Type", "application/json")
				res, err := client.Do(r)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 200 {
					b.Fatal(res.StatusCode, err)
				}
				res.Body.Close()
				took = append(took, time.Since(begin))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "µs-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "µs-p99")
		})
	}
}

// BenchmarkExecuteHandler is the front-end's part alone, without sockets on
// the client's side.
func BenchmarkExecuteHandler(b *testing.B) {
	w := newWorld(b)
	id := w.create(paid)
	w.node.Config.Handler = says(`{"exitCode":0}`)
	body := fmt.Sprintf(`{"sessionId":%q,"code":"console.log(1)"}`, id)
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest("POST", "/execute", strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+paid)
		r.Header.Set("Content-Type", "application/json")
		if out := w.serve(r); out.Code != 200 {
			b.Fatal(out.Body)
		}
	}
}
