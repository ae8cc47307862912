// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

// The tests that run a plugin are in package driver_test, because the Runtimes
// that they run over import this package.

// NewConsulClaims is newConsulClaims.
var NewConsulClaims = newConsulClaims

// ErrClaimed is errClaimed.
var ErrClaimed = errClaimed
