// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package workspace

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// takeReady returns a ready workspace, or nil if there is none.
func (m *Manager) takeReady(size int64) *Workspace {
	if size != m.config.ReadySize {
		return nil
	}
	select {
	case w := <-m.ready:
		return w
	default:
		return nil
	}
}

// retryReady is how long keepReady waits after a failure.
const retryReady = 5 * time.Second

// keepReady makes workspaces in advance until ctx is done. Those that nobody took
// are then closed, and Manager.Close discards their images.
func (m *Manager) keepReady(ctx context.Context) {
	lowPriority()
	for ctx.Err() == nil {
		w, err := m.build(ctx, m.config.ReadySize)
		if err != nil {
			m.log.Warn("cannot make a workspace in advance", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(retryReady):
			}
			continue
		}
		select {
		case m.ready <- w:
		case <-ctx.Done():
			_ = w.Close()
		}
	}
	for w := m.takeReady(m.config.ReadySize); w != nil; w = m.takeReady(m.config.ReadySize) {
		_ = w.Close()
	}
}

// poke has the trash emptied.
func (m *Manager) poke() {
	select {
	case m.trash <- struct{}{}:
	default:
	}
}

// emptyTrash unlinks what is in the trash whenever poked. An image that was full
// takes up to 60 ms, which the journal of the node's file system is busy for, so
// it is one at a time and behind everything else.
func (m *Manager) emptyTrash(ctx context.Context) {
	lowPriority()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.trash:
		}
		dir := filepath.Join(m.config.Dir, trashDir)
		entries, err := os.ReadDir(dir)
		if err != nil {
			m.log.Warn("cannot list discarded workspaces", "error", err)
		}
		for _, e := range entries {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				m.log.Warn("cannot remove a discarded workspace", "error", err)
			}
		}
	}
}

// lowPriority puts the calling goroutine behind all others' work, for good: its
// thread is not used for any other goroutine any more.
func lowPriority() {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 19)
}
