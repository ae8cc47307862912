// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package claim is the part of Consul KV that nodes write and front-ends read:
// which allocation owns an awake life of a session, and where it answers.
//
// A claim is created if absent and never changed, so it is the fence of
// a session's epoch: of two allocations that were started for the same epoch
// only one can hold it.
package claim

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// DefaultPrefix is the folder in Consul KV below which everything of ours lies.
const DefaultPrefix = "buntime"

// Claim says which allocation carries a session's epoch.
type Claim struct {
	// Session is the session id, "ses_" and 20 characters.
	Session string `json:"session"`
	// Epoch counts the awake lives of the session, from 1.
	Epoch uint64 `json:"epoch"`
	// Alloc is the Nomad allocation id.
	Alloc string `json:"alloc"`
	// Node is the Nomad client's node id.
	Node string `json:"node"`
	// API is host:port of the node agent's session API on this allocation.
	API string `json:"api"`
	// Preview is host:port of the session's preview on this allocation.
	Preview string `json:"preview"`
}

// Key is the KV key of a session's claim for an epoch: one key an epoch, so
// that create-if-absent is the whole of the fence.
func Key(prefix, session string, epoch uint64) string {
	return Folder(prefix, session) + strconv.FormatUint(epoch, 10)
}

// Folder is the KV prefix of all claims of a session, with its final slash.
func Folder(prefix, session string) string {
	return strings.Trim(prefix, "/") + "/claims/" + session + "/"
}

// Token is the bearer token with which a front-end calls the node agent for
// one awake life of a session: another life's is refused. Both sides derive it
// from the cluster's node secret, so it is never in a job, a task's
// environment or KV.
func Token(secret []byte, session string, epoch uint64) string {
	return token(secret, "buntime node agent v2", session, epoch)
}

// PreviewToken is what a front-end shows the node agent with the requests of a
// session's previews. It opens nothing of the session's API.
func PreviewToken(secret []byte, session string, epoch uint64) string {
	return token(secret, "buntime preview v1", session, epoch)
}

func token(secret []byte, purpose, session string, epoch uint64) string {
	m := hmac.New(sha256.New, secret)
	fmt.Fprintf(m, "%s\n%s\n%d", purpose, session, epoch)
	return hex.EncodeToString(m.Sum(nil))
}
