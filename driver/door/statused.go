// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package door

import (
	"bufio"
	"net"
	"net/http"
)

// Statused is an answer that remembers its status.
type Statused struct {
	http.ResponseWriter
	// Status is 0 until the head is written; 101 of a connection that was taken over.
	Status int
}

// Unwrap is for http.ResponseController.
func (s *Statused) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (s *Statused) WriteHeader(status int) {
	if s.Status == 0 && status >= 200 {
		s.Status = status
	}
	s.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (s *Statused) Write(p []byte) (int, error) {
	if s.Status == 0 {
		s.Status = http.StatusOK
	}
	return s.ResponseWriter.Write(p)
}

// Hijack implements http.Hijacker.
func (s *Statused) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(s.ResponseWriter).Hijack()
	if err == nil {
		s.Status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}
