// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package door_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/buntime/buntime/driver/door"
)

// BenchmarkServer is a request with a body over a kept connection, with the
// door before the handler and without.
func BenchmarkServer(b *testing.B) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "ok")
	})
	for _, name := range []string{"plain", "door"} {
		b.Run(name, func(b *testing.B) {
			s := httptest.NewUnstartedServer(h)
			if name == "door" {
				s.Config = door.NewServer(h, door.Limits{Head: late, Idle: late, Stall: late}, nil)
				s.Listener = door.Limit(s.Listener, door.Room{All: 1000, Each: 1000})
			}
			s.Start()
			defer s.Close()
			for b.Loop() {
				res, err := s.Client().Post(s.URL, "text/plain", strings.NewReader("body"))
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		})
	}
}
