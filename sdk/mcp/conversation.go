// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package mcp

import (
	"context"
	"fmt"
	"sync"

	buntime "github.com/buntime/buntime/sdk/go"
)

// metadataName is what the session of a conversation has the conversation's id under.
const metadataName = "mcp"

// made is what a model is told of a new session.
func made(s *buntime.Created) string {
	return fmt.Sprintf("new session %s, until %s", s.SessionID, s.ExpiresAt.Format("2006-01-02 15:04 MST"))
}

// connection is the conversation of a connection to this process.
type connection struct {
	client *buntime.Client
	mu     sync.Mutex
	id     string
	// given: the session was there before, and is not ours to make or to end.
	given bool
}

func (c *connection) session(ctx context.Context) (id, note string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.id != "" {
		return c.id, "", nil
	}
	s, err := c.client.Create(ctx, buntime.CreateRequest{Metadata: map[string]string{metadataName: "stdio"}})
	if err != nil {
		return "", "", err
	}
	c.id = s.SessionID
	return c.id, made(s), nil
}

func (c *connection) gone(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.id == id && !c.given {
		c.id = ""
	}
}

// named is the conversation that an Mcp-Session-Id names. Any process finds its session.
type named struct {
	client *buntime.Client
	id     string
	known  *memory
	name   string // in known: of the account's key and the id
}

func (n *named) session(ctx context.Context) (id, note string, err error) {
	if id := n.known.get(n.name); id != "" {
		return id, "", nil
	}
	page, err := n.client.List(ctx, buntime.ListOptions{Limit: 1, Metadata: map[string]string{metadataName: n.id}})
	if err != nil {
		return "", "", err
	}
	if len(page.Items) > 0 { // the newest comes first
		n.known.put(n.name, page.Items[0].SessionID)
		return page.Items[0].SessionID, "", nil
	}
	// Two that come here at a time make one session, by the key. That of a key from
	// before may have ended, so the next key has its id.
	const most = 16 // lives of a conversation in the 24 hours that keys are known
	before := ""
	for range most {
		s, err := n.client.Create(ctx, buntime.CreateRequest{
			Metadata: map[string]string{metadataName: n.id}, IdempotencyKey: "mcp:" + n.id + ":" + before,
		})
		if err != nil {
			return "", "", err
		}
		_, err = n.client.Info(ctx, s.SessionID)
		switch {
		case err == nil:
			n.known.put(n.name, s.SessionID)
			return s.SessionID, made(s), nil
		case !buntime.Is(err, "session_not_found"):
			return "", "", err
		}
		before = s.SessionID
	}
	return "", "", toldf("pass the sessionId of a session of the account, or ask the user to start a new conversation.", "The sessions of this conversation have ended %d times.", most)
}

func (n *named) gone(string) { n.known.drop(n.name) }

// end deletes the conversation's session, if there is one.
func (n *named) end(ctx context.Context) error {
	page, err := n.client.List(ctx, buntime.ListOptions{Metadata: map[string]string{metadataName: n.id}})
	if err != nil {
		return err
	}
	n.known.drop(n.name)
	for _, s := range page.Items {
		if err := n.client.Delete(ctx, s.SessionID); err != nil && !buntime.Is(err, "session_not_found") {
			return err
		}
	}
	return nil
}

// loose is a client that tells no conversation.
type loose struct{ client *buntime.Client }

// looseTTL is short: nobody may come back to such a session.
const looseTTL = 3600

func (l loose) session(ctx context.Context) (id, note string, err error) {
	s, err := l.client.Create(ctx, buntime.CreateRequest{TTL: looseTTL, Metadata: map[string]string{metadataName: "call"}})
	if err != nil {
		return "", "", err
	}
	return s.SessionID, made(s) + "; pass sessionId " + s.SessionID + " in your next calls, or each gets a session of its own", nil
}

func (loose) gone(string) {}

// memory knows the sessions of conversations that were here lately. What it has
// forgotten is found again.
type memory struct {
	mu       sync.Mutex
	sessions map[string]string
}

// longestMemory bounds it.
const longestMemory = 10_000

func (m *memory) get(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sessions[name]
}

func (m *memory) put(name, session string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sessions == nil || len(m.sessions) >= longestMemory {
		m.sessions = map[string]string{}
	}
	m.sessions[name] = session
}

func (m *memory) drop(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.sessions, name)
}
