// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"fmt"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestDumpAgain: a list that the kernel calls incomplete is asked for again.
func TestDumpAgain(t *testing.T) {
	asked := 0
	all, err := dump(func() ([]int, error) {
		if asked++; asked < 3 {
			return []int{1}, fmt.Errorf("list: %w", netlink.ErrDumpInterrupted)
		}
		return []int{1, 2}, nil
	})
	if err != nil || !slices.Equal(all, []int{1, 2}) || asked != 3 {
		t.Errorf("%v after %d, error %v", all, asked, err)
	}
}
