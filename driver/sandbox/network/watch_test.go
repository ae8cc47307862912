// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
)

// TestDeletedTableIsPutBack: an operator reloads the machine's firewall, which
// deletes all tables first.
func TestDeletedTableIsPutBack(t *testing.T) {
	up := serveNames(t, nameServer)
	up.know("api.example.com.", "api.example.com. 60 IN A "+webAddress)
	serveTCP(t, internet, namedServer)
	serveTCP(t, internet, otherServer)
	ranged := serveTCP(t, internet, farAddress+":4747").String()
	host := serveTCP(t, nil, hostAddress+":4646").String()
	m := start(t, Config{})
	free := sandbox(t, m, 0)
	listed := sandboxWith(t, m, 1, policy(t, "api.example.com", farAddress))
	resolve(t, listed, "api.example.com.")
	for range 3 {
		conn, err := nftConn()
		if err != nil {
			t.Fatal(err)
		}
		conn.FlushRuleset()
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		awaitTable(t, m)
		for _, n := range []*Network{free, listed} {
			if reaches(t, n, host) {
				t.Errorf("%s: the host is reached", n.policy.Mode)
			}
		}
		if !reaches(t, free, namedServer) || !reaches(t, listed, namedServer) || !reaches(t, listed, ranged) {
			t.Error("what was open is not")
		}
		if names, err := m.firewall.uplinks(); err != nil || !slices.Equal(names, []string{outwardLink}) {
			t.Errorf("uplinks %q, error %v", names, err)
		}
		if list := openings(t, m); len(list) != 2 {
			t.Errorf("%v is open, want two", list)
		}
	}
}

// awaitTable waits until the whole table is there.
func awaitTable(t *testing.T, m *Manager) {
	t.Helper()
	for deadline := time.Now().Add(2 * testDeadline); ; time.Sleep(time.Millisecond) {
		elements, err := m.firewall.elements(m.firewall.allowedSet())
		if err == nil && len(elements) == 2 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the table is not put back: %d openings, error %v", len(elements), err)
		}
	}
}

// TestNobodyWatching is the mutation: without who puts it back, the host is
// open.
func TestNobodyWatching(t *testing.T) {
	host := serveTCP(t, nil, hostAddress+":4646").String()
	m := start(t, Config{})
	n := sandbox(t, m, 0)
	m.stop()
	m.workers.Wait()
	weaken(t, m, func(m *Manager, c *nftables.Conn) { c.DelTable(m.firewall.table) })
	if !reaches(t, n, host) {
		t.Error("the host is not reached without the table: the test above proves nothing")
	}
}
