// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import "time"

// The tests that run a plugin are in package driver_test, because the Runtimes
// that they run over import this package.

// NewConsulClaims is newConsulClaims.
var NewConsulClaims = newConsulClaims

// ErrClaimed is errClaimed.
var ErrClaimed = errClaimed

// Hasten has strays ended sooner.
func (d *Driver) Hasten(after, every time.Duration) { d.strayAfter, d.strayEvery = after, every }

// Knows says whether there is a task, without counting as an agent's question.
func (d *Driver) Knows(id string) bool {
	_, ok := d.tasks.get(id)
	return ok
}
