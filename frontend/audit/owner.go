// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"os"
	"path/filepath"
	"syscall"
)

// give makes a new file, if root has made it, its directory's owner's: a command that
// root runs may be there before the front-end, which is to be able to write on.
func give(f *os.File) error {
	st, err := f.Stat()
	if err != nil || st.Size() > 0 || os.Geteuid() != 0 {
		return err
	}
	dir, err := os.Stat(filepath.Dir(f.Name()))
	if err != nil {
		return err
	}
	if owner, ok := dir.Sys().(*syscall.Stat_t); ok {
		return f.Chown(int(owner.Uid), int(owner.Gid))
	}
	return nil
}
