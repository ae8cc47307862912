// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"fmt"
	"io/fs"
	"net/http"
	"syscall"
	"testing"
)

// TestDiskError: what a disk refuses may be had later, as it may be the object store that
// is away; nobody's request was wrong, and nobody's code.
func TestDiskError(t *testing.T) {
	e := asError(fmt.Errorf("access a: %w", &fs.PathError{Op: "openat", Path: "a", Err: syscall.EIO}))
	if e.Status != http.StatusServiceUnavailable || e.RetryAfter == 0 || e.Details["done"] != doneUnknown {
		t.Errorf("%d, %+v", e.Status, e)
	}
	if e := asError(fs.ErrInvalid); e.Status != http.StatusInternalServerError {
		t.Errorf("another error: %d", e.Status)
	}
}
