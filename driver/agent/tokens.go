// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"crypto/subtle"

	"github.com/buntime/buntime/driver"
)

// tokens are those that a listener of a session takes: of the node secret, and, while that
// is being changed, of the one before.
type tokens [][]byte

// tokensOf makes them with one of package claim's functions.
func tokensOf(config *driver.Config, s *Session, token func(secret []byte, session string, epoch uint64) string) tokens {
	t := tokens{[]byte(token(config.NodeSecret, s.ID, s.Epoch))}
	if len(config.OldSecret) > 0 {
		t = append(t, []byte(token(config.OldSecret, s.ID, s.Epoch)))
	}
	return t
}

// have says whether shown is one of them, in a time that tells nothing of them.
func (t tokens) have(shown []byte) bool {
	found := 0
	for _, token := range t {
		found |= subtle.ConstantTimeCompare(shown, token)
	}
	return found == 1
}
