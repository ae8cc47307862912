// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package keys has the API keys: those of the configuration file, and those that are
// kept in the store and can be created, rotated and revoked while front-ends run.
//
// A key is known by the SHA-256 hash of its text, so that neither the time that it
// takes to find one nor a look at memory, a file or the store tells anything about it.
// Passwords want a slow hash, because there are few that people choose; keys are made
// by New and have 130 random bits, which nobody tries out.
package keys

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"regexp"
	"strings"

	"github.com/buntime/buntime/driver/door"
)

// Sum is the hash of a key's text.
type Sum [sha256.Size]byte

const hashPrefix = "sha256:"

var accountShape = regexp.MustCompile(`^[A-Za-z0-9._@-]{1,64}$`) // a part of keys in the store

// New makes the text of a key.
func New() string { return door.KeyPrefix + strings.ToLower(rand.Text()) }

// SumOf is the hash of a key's text.
func SumOf(text string) Sum { return sha256.Sum256([]byte(text)) }

// Hash is what the configuration has of a key: "sha256:" and hexadecimal digits.
func Hash(text string) string {
	sum := SumOf(text)
	return hashPrefix + hex.EncodeToString(sum[:])
}

// parseHash says nothing of a text that is no hash: it may be a key.
func parseHash(text string) (sum Sum, err error) {
	digits, ok := strings.CutPrefix(text, hashPrefix)
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || len(b) != len(sum) {
		return sum, errors.New(`want "sha256:" and the 64 hexadecimal digits of a key's SHA-256; "buntime-frontend new-key" prints both`)
	}
	return Sum(b), nil
}
