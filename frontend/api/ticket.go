// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/frontend/keys"
)

// A browser can send no Authorization header with a WebSocket, and a key has no business
// in a URL. So a page asks for a ticket, which opens a terminal of one session, for some
// seconds, to the key that asked for it, at any front-end: it is the key's hash and the
// time, signed with what front-ends share. It comes as a subprotocol.
const (
	// terminalProtocol is the subprotocol that is agreed on, ticketProtocol begins the
	// one that is the ticket.
	terminalProtocol = "buntime.terminal"
	ticketProtocol   = "buntime.ticket."
	ticketLife       = 30 * time.Second
)

// Ticket is the answer of POST /sessions/{id}/terminal/ticket.
type Ticket struct {
	Protocols []string `json:"protocols" nullable:"false" doc:"What to open the WebSocket with, as its subprotocols."`
	ExpiresAt Time     `json:"expiresAt" doc:"Until when it can be opened."`
}

func (s *Server) ticketRoutes(api huma.API) {
	add(api, huma.Operation{
		OperationID: "createTerminalTicket", Method: http.MethodPost, Path: "/sessions/{id}/terminal/ticket", Tags: []string{"sessions"},
		Summary:     "Get a ticket to open a terminal with",
		Description: "For browsers, whose WebSockets send no Authorization header. Neither wakes the session nor counts as activity.",
		Errors:      []int{http.StatusNotFound},
	}, within(sessionTimeout, s.ticket))
}

type ticketInput struct {
	ID string `path:"id" doc:"The session's id."`
	Bearer
}

// Bearer is the part of an input that is the hash of the key that it came with.
type Bearer struct{ sum keys.Sum }

// Resolve implements huma.Resolver.
func (b *Bearer) Resolve(ctx huma.Context) []error {
	r, _ := humago.Unwrap(ctx)
	text, _ := door.Key(r.Header) // it was found
	b.sum = keys.SumOf(text)
	return nil
}

type ticketOutput struct{ Body Ticket }

func (s *Server) ticket(ctx context.Context, in *ticketInput) (*ticketOutput, error) {
	if err := s.Sessions.Owns(ctx, caller(ctx).Account, in.ID); err != nil {
		return nil, err
	}
	expires := s.Sessions.Now().Add(ticketLife)
	return &ticketOutput{Ticket{
		Protocols: []string{terminalProtocol, ticketProtocol + s.signTicket(in.ID, in.sum, expires)}, ExpiresAt: Time(expires),
	}}, nil
}

// signTicket is a ticket for a session: hash, seconds, signature.
func (s *Server) signTicket(session string, sum keys.Sum, expires time.Time) string {
	text := binary.BigEndian.AppendUint64(sum[:], uint64(expires.Unix()))
	return base64.RawURLEncoding.EncodeToString(append(text, s.ticketMAC(session, text)...))
}

func (s *Server) ticketMAC(session string, text []byte) []byte {
	h := hmac.New(sha256.New, s.Secret)
	h.Write([]byte("buntime terminal ticket\x00" + session + "\x00"))
	h.Write(text)
	return h.Sum(nil)
}

// presented is the hash of the key that a good ticket of the request is for. Only the
// opening of a terminal takes tickets, and only where there is no Authorization.
func (s *Server) presented(r *http.Request) (sum keys.Sum, ok bool) {
	if len(s.Secret) == 0 || r.Method != http.MethodGet || r.Header["Authorization"] != nil || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return sum, false
	}
	rest, under := strings.CutPrefix(r.URL.Path, "/sessions/")
	session, terminal := strings.CutSuffix(rest, "/terminal")
	if !under || !terminal {
		return sum, false
	}
	for _, p := range subprotocols(r.Header) {
		text, is := strings.CutPrefix(p, ticketProtocol)
		if !is {
			continue
		}
		b, err := base64.RawURLEncoding.Strict().DecodeString(text)
		signed := len(sum) + 8
		if err != nil || len(b) != signed+sha256.Size || !hmac.Equal(b[signed:], s.ticketMAC(session, b[:signed])) {
			return sum, false
		}
		expires := time.Unix(int64(binary.BigEndian.Uint64(b[len(sum):signed])), 0)
		return keys.Sum(b[:len(sum)]), s.Sessions.Now().Before(expires)
	}
	return sum, false
}

// subprotocols are those that a WebSocket's client offers.
func subprotocols(h http.Header) (all []string) {
	for _, line := range h["Sec-Websocket-Protocol"] {
		for p := range strings.SplitSeq(line, ",") {
			all = append(all, strings.TrimSpace(p))
		}
	}
	return all
}
