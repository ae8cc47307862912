// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/frontend"
)

// Keyring finds API keys by the SHA-256 hash of their text, so that neither
// the time that it takes nor a look at memory or a file tells anything about
// a key. Passwords want a slow hash, because there are few that people choose;
// keys are made by NewKey and have 130 random bits, which nobody tries out.
type Keyring map[[sha256.Size]byte]frontend.Key

// KeyConfig is an API key in the configuration.
type KeyConfig struct {
	// Hash is that of the key, as HashKey writes it.
	Hash string `json:"hash"`
	// Key is there to be refused with advice: it has no place in a file.
	Key     string `json:"key"`
	Account string `json:"account"`
	// Plan is free, paid or enterprise.
	Plan string `json:"plan"`
	// Limits raise or lower single values of the plan.
	Limits frontend.Plan `json:"limits"`
}

const hashPrefix = "sha256:"

var accountShape = regexp.MustCompile(`^[A-Za-z0-9._@-]{1,64}$`) // a part of keys in the store

// NewKey makes an API key.
func NewKey() string { return door.KeyPrefix + strings.ToLower(rand.Text()) }

// HashKey is what the configuration has of a key: "sha256:" and hexadecimal digits.
func HashKey(key string) string {
	hash := sha256.Sum256([]byte(key))
	return hashPrefix + hex.EncodeToString(hash[:])
}

// NewKeyring checks and takes over the configured keys. No error has a key in it.
func NewKeyring(keys []KeyConfig) (Keyring, error) {
	ring := Keyring{}
	for i, k := range keys {
		switch {
		case k.Key != "":
			return nil, fmt.Errorf("keys[%d].key is a key in plain text, which is not to be in a file: put its hash there instead, "+
				`"hash": "sha256:…", which "buntime-frontend new-key" prints with a new key, and "printf %%s "$key" | sha256sum" for one that there is`, i)
		case !accountShape.MatchString(k.Account):
			return nil, fmt.Errorf("keys[%d].account %q must be 1 to 64 letters, digits, or . _ @ -", i, k.Account)
		}
		hash, err := parseHash(k.Hash)
		if err != nil {
			return nil, fmt.Errorf("keys[%d].hash: %w", i, err)
		}
		plan, err := frontend.FindPlan(k.Plan)
		if err != nil {
			return nil, fmt.Errorf("keys[%d].plan: %w", i, err)
		}
		if _, ok := ring[hash]; ok {
			return nil, fmt.Errorf("keys[%d].hash is there twice", i)
		}
		ring[hash] = frontend.Key{Account: k.Account, Plan: k.Plan, Allowed: plan.With(k.Limits)}
	}
	return ring, nil
}

// parseHash says nothing of a text that is no hash: it may be a key.
func parseHash(text string) (hash [sha256.Size]byte, err error) {
	digits, ok := strings.CutPrefix(text, hashPrefix)
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || len(b) != len(hash) {
		return hash, errors.New(`want "sha256:" and the 64 hexadecimal digits of a key's SHA-256; "buntime-frontend new-key" prints both`)
	}
	return [sha256.Size]byte(b), nil
}

// find returns the key that a request carries, and a name for it that is no
// secret.
func (k Keyring) find(r *http.Request) (frontend.Key, string, bool) {
	text, ok := door.Key(r.Header)
	if !ok {
		return frontend.Key{}, "", false
	}
	hash := sha256.Sum256([]byte(text))
	key, ok := k[hash]
	return key, "key " + string(hash[:]), ok
}

type keyContext struct{}

// caller is the key of the request that a context belongs to.
func caller(ctx context.Context) frontend.Key {
	key, _ := ctx.Value(keyContext{}).(frontend.Key)
	return key
}
