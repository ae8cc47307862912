// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/buntime/buntime/frontend"
)

// Keyring finds API keys by the SHA-256 hash of their text, so that neither
// the time that it takes nor a look at memory tells anything about a key.
type Keyring map[[sha256.Size]byte]frontend.Key

// KeyConfig is an API key in the configuration.
type KeyConfig struct {
	Key     string `json:"key"`
	Account string `json:"account"`
	// Plan is free, paid or enterprise.
	Plan string `json:"plan"`
	// Limits raise or lower single values of the plan.
	Limits frontend.Plan `json:"limits"`
}

var (
	keyShape     = regexp.MustCompile(`^btk_[A-Za-z0-9_-]{8,200}$`)
	accountShape = regexp.MustCompile(`^[A-Za-z0-9._@-]{1,64}$`) // a part of keys in the store
)

// NewKeyring checks and takes over the configured keys.
func NewKeyring(keys []KeyConfig) (Keyring, error) {
	ring := Keyring{}
	for i, k := range keys {
		switch {
		case !keyShape.MatchString(k.Key):
			return nil, fmt.Errorf("keys[%d].key must be btk_ and at least 8 letters or digits", i)
		case !accountShape.MatchString(k.Account):
			return nil, fmt.Errorf("keys[%d].account %q must be 1 to 64 letters, digits, or . _ @ -", i, k.Account)
		}
		plan, err := frontend.FindPlan(k.Plan)
		if err != nil {
			return nil, fmt.Errorf("keys[%d].plan: %w", i, err)
		}
		hash := sha256.Sum256([]byte(k.Key))
		if _, ok := ring[hash]; ok {
			return nil, fmt.Errorf("keys[%d].key is there twice", i)
		}
		ring[hash] = frontend.Key{Account: k.Account, Plan: k.Plan, Allowed: plan.With(k.Limits)}
	}
	return ring, nil
}

// find returns the key that a request carries, and a name for it that is no
// secret.
func (k Keyring) find(r *http.Request) (frontend.Key, string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return frontend.Key{}, "", false
	}
	hash := sha256.Sum256([]byte(strings.TrimSpace(token)))
	key, ok := k[hash]
	return key, "key " + string(hash[:]), ok
}

type keyContext struct{}

// caller is the key of the request that a context belongs to.
func caller(ctx context.Context) frontend.Key {
	key, _ := ctx.Value(keyContext{}).(frontend.Key)
	return key
}
