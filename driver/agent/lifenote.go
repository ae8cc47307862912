// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"encoding/json"
	"time"

	"github.com/buntime/buntime/driver/sandbox"
)

// lifeNote is what a later process of the plugin has to know of a session's life.
// Whether its processes stand still it asks the kernel.
type lifeNote struct {
	LastActive time.Time `json:"lastActive"`
}

const lifeFile = "life.json"

func (s *Session) noteActivity(last time.Time) {
	b, err := json.Marshal(lifeNote{LastActive: last})
	if err == nil {
		err = s.box.Keep(lifeFile, b)
	}
	if err != nil {
		s.log.Warn("could not note when the session was active last", "error", err)
	}
}

// notedActivity is what an earlier process noted, now if it did not.
func notedActivity(box *sandbox.Sandbox) time.Time {
	var note lifeNote
	b, err := box.Kept(lifeFile)
	if err != nil || json.Unmarshal(b, &note) != nil || note.LastActive.IsZero() {
		return time.Now()
	}
	return note.LastActive
}
