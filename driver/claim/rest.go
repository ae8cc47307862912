// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package claim

import (
	"strconv"
	"strings"
	"time"

	"github.com/buntime/buntime/driver/snapshot"
)

// Rest says where a session's workspace is kept: what the node that carries an
// awake life of it notes with each snapshot. There is one for each epoch. Only the
// holder of the epoch's claim writes it, each time over the version that it wrote
// last, until a front-end seals it.
//
// So the same compare-and-swap decides between a node that lets go of its sandbox
// and a front-end that gives the node up: a snapshot counts if it was noted before
// the seal, and a node whose note is refused knows that the session lives elsewhere.
type Rest struct {
	Session string `json:"session"`
	Epoch   uint64 `json:"epoch"`
	Alloc   string `json:"alloc,omitempty"`
	// Snapshot is the last one; zero where there was none in this epoch.
	Snapshot snapshot.Pointer `json:"snapshot,omitzero"`
	// Files in the workspace when it was taken.
	Files int `json:"files,omitempty"`
	// LastActive is when the session was active last, as of this note.
	LastActive time.Time `json:"lastActive,omitzero"`
	// Try tells notes apart that say the same otherwise: Consul gives no new version
	// to a value that it has.
	Try int `json:"try,omitempty"`
	// Asleep: the node has let go, and Snapshot is the whole of the session. Without
	// a Snapshot the epoch has come to nothing: the node could not begin it, and the
	// session is what it was before.
	Asleep bool `json:"asleep,omitempty"`
	// Sealed: the node was given up. What it notes later does not count.
	Sealed bool `json:"sealed,omitempty"`
}

// Over says whether nothing more will come of the epoch.
func (r Rest) Over() bool { return r.Asleep || r.Sealed }

// RestKey is the KV key of a session's rest of an epoch.
func RestKey(prefix, session string, epoch uint64) string {
	return RestFolder(prefix, session) + strconv.FormatUint(epoch, 10)
}

// RestFolder is the KV prefix of all rests of a session, with its final slash.
func RestFolder(prefix, session string) string {
	return strings.Trim(prefix, "/") + "/rests/" + session + "/"
}

// DataKey is the KV key of the key that a session's snapshots are sealed with. It
// goes with the session, and its data is noise then.
func DataKey(prefix, session string) string {
	return strings.Trim(prefix, "/") + "/keys/" + session
}

// RecordKey is the KV key of a session's record, which front-ends write. Nodes look
// whether there is one.
func RecordKey(prefix, session string) string {
	return strings.Trim(prefix, "/") + "/sessions/" + session
}

// SlotKey is the KV key of the slot that is known by a session's id, as long as
// nobody has taken it. Front-ends write it; a node removes that of a slot that ended.
func SlotKey(prefix, session string) string {
	return strings.Trim(prefix, "/") + "/slots/" + session
}
