// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import "crypto/rand"

const idAlphabet = "abcdefghijklmnopqrstuvwxyz0123456789"

// NewID makes a session id.
func NewID() string { return idPrefix + randomText() }

// NewExecutionID makes an execution id.
func NewExecutionID() string { return "exe_" + randomText() }

// NewRequestID makes a request id.
func NewRequestID() string { return "req_" + randomText() }

// randomText is idLength characters of idAlphabet, each equally likely.
func randomText() string {
	const fair = 256 - 256%len(idAlphabet) // bytes from here on would favour some characters
	var out [idLength]byte
	var random [32]byte
	for n := 0; n < idLength; {
		rand.Read(random[:])
		for _, b := range random {
			if int(b) < fair && n < idLength {
				out[n] = idAlphabet[int(b)%len(idAlphabet)]
				n++
			}
		}
	}
	return string(out[:])
}
