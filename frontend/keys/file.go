// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package keys

import (
	"fmt"

	"github.com/buntime/buntime/frontend"
)

// File has the keys of the configuration file.
type File map[Sum]frontend.Key

// Config is an API key in the configuration.
type Config struct {
	// Hash is that of the key, as Hash writes it.
	Hash string `json:"hash"`
	// Key is there to be refused with advice: it has no place in a file.
	Key     string `json:"key"`
	Account string `json:"account"`
	// Plan is free, paid or enterprise.
	Plan string `json:"plan"`
	// Limits raise or lower single values of the plan.
	Limits frontend.Plan `json:"limits"`
	// Operator makes it a key of who runs the front-ends.
	Operator bool `json:"operator"`
}

// NewFile checks and takes over the configured keys. No error has a key in it.
func NewFile(list []Config) (File, error) {
	f := File{}
	for i, k := range list {
		switch {
		case k.Key != "":
			return nil, fmt.Errorf("keys[%d].key is a key in plain text, which is not to be in a file: put its hash there instead, "+
				`"hash": "sha256:…", which "buntime-frontend new-key" prints with a new key, and "printf %%s "$key" | sha256sum" for one that there is`, i)
		case !accountShape.MatchString(k.Account):
			return nil, fmt.Errorf("keys[%d].account %q must be 1 to 64 letters, digits, or . _ @ -", i, k.Account)
		}
		sum, err := parseHash(k.Hash)
		if err != nil {
			return nil, fmt.Errorf("keys[%d].hash: %w", i, err)
		}
		plan, err := frontend.FindPlan(k.Plan)
		if err != nil {
			return nil, fmt.Errorf("keys[%d].plan: %w", i, err)
		}
		if _, ok := f[sum]; ok {
			return nil, fmt.Errorf("keys[%d].hash is there twice", i)
		}
		f[sum] = frontend.Key{ID: fmt.Sprintf("file_%x", sum[:6]), Account: k.Account, Plan: k.Plan, Allowed: plan.With(k.Limits), Operator: k.Operator}
	}
	return f, nil
}

// Loaded says that all keys are known.
func (f File) Loaded() bool { return true }

// Find returns what a key allows, if it is there.
func (f File) Find(sum Sum) (frontend.Key, bool, error) {
	key, ok := f[sum]
	return key, ok, nil
}
