// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"errors"
	"io"
	"sync"
)

// upload is a body on its way to a node. It can be read once: a request that has begun
// to read it cannot be sent again.
type upload struct {
	io.Reader

	mu    sync.Mutex
	began bool
	err   error
}

// Read implements io.Reader.
func (u *upload) Read(b []byte) (int, error) {
	n, err := u.Reader.Read(b)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.began = true
	if err != nil && !errors.Is(err, io.EOF) {
		u.err = err
	}
	return n, err
}

// broken is why the body could not be read to its end, nil if it could.
func (u *upload) broken() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// Used says whether any of the body was read, so that it is not whole any more.
func (u *upload) Used() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.began
}
