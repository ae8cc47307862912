// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// maxWritten bounds the names that one answer carries.
const maxWritten = 1000

// writes learns from the kernel which files are written in the workspace, while
// somebody wants to know.
type writes struct {
	root   *os.Root
	notify *os.File

	mu      sync.Mutex // of a drain
	openers map[*written]struct{}
}

// events are buffers for what the kernel has to tell, which sessions share: each needs
// one for microseconds.
var events = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// written is what one execution wrote, or what was written while it ran.
type written struct {
	names map[string]struct{}
}

// The events that tell of a file that was written. A kernel of the sandbox's own
// keeps files open on the host for longer than its programs do, so that their
// closing comes late or never; what it creates and changes is seen at once.
const (
	closedEvents  = unix.FAN_CLOSE_WRITE | unix.FAN_MOVED_TO
	changedEvents = closedEvents | unix.FAN_MODIFY | unix.FAN_CREATE
)

// watchWrites begins to watch the file system that root is in for the events of mask.
func watchWrites(root *os.Root, mask uint64) (*writes, error) {
	const flags = unix.FAN_CLASS_NOTIF | unix.FAN_REPORT_DFID_NAME | unix.FAN_NONBLOCK | unix.FAN_CLOEXEC
	fd, err := unix.FanotifyInit(flags, unix.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("watch the workspace: %w", err)
	}
	w := &writes{root: root, notify: os.NewFile(uintptr(fd), "fanotify"), openers: map[*written]struct{}{}}
	dir, err := root.Open(".")
	if err == nil {
		defer dir.Close()
		err = unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM,
			mask, int(dir.Fd()), ".")
	}
	if err != nil {
		w.notify.Close()
		return nil, fmt.Errorf("watch the workspace: %w", err)
	}
	return w, nil
}

// run takes what the kernel tells until close, so that its queue stays short.
func (w *writes) run() {
	raw, err := w.notify.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(uintptr) bool { // ends with an error once closed
		w.drain()
		return false
	})
}

func (w *writes) close() { w.notify.Close() }

// begin starts a record of what is written from now on.
func (w *writes) begin() *written {
	r := &written{names: map[string]struct{}{}}
	w.drain() // what came before is nobody's of this
	w.mu.Lock()
	defer w.mu.Unlock()
	w.openers[r] = struct{}{}
	return r
}

// end closes a record and returns the files, sorted, that are there still.
func (w *writes) end(r *written) []string {
	w.drain()
	w.mu.Lock()
	delete(w.openers, r)
	w.mu.Unlock()
	out := make([]string, 0, len(r.names))
	for name := range r.names {
		if st, err := w.root.Lstat(name); err == nil && !st.IsDir() {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// drain reads all that the kernel has to tell.
func (w *writes) drain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	raw, err := w.notify.SyscallConn()
	if err != nil {
		return
	}
	buf := events.Get().(*[16 << 10]byte)
	defer events.Put(buf)
	for more := true; more; {
		more = false
		_ = raw.Control(func(fd uintptr) {
			n, err := unix.Read(int(fd), buf[:])
			if errors.Is(err, unix.EINTR) {
				more = true
			}
			if err == nil && n > 0 {
				w.take(buf[:n])
				more = true
			}
		})
	}
}

// take reads events. Their form is of fanotify(7): a metadata header, then
// records of which one has the directory's file handle and the name.
func (w *writes) take(b []byte) {
	const header = 24 // sizeof(struct fanotify_event_metadata)
	for len(b) >= header {
		size := int(binary.NativeEndian.Uint32(b))
		if size < header || size > len(b) {
			return
		}
		if w.wanted() {
			w.takeInfo(b[header:size])
		}
		b = b[size:]
	}
}

// wanted tells whether anybody has room for another name. To find one takes
// three system calls, which a session that makes files all day long would cause
// outside of its limits.
func (w *writes) wanted() bool {
	for r := range w.openers {
		if len(r.names) < maxWritten {
			return true
		}
	}
	return false
}

func (w *writes) takeInfo(b []byte) {
	// struct fanotify_event_info_fid: type, pad, len, fsid (8), then a struct
	// file_handle: bytes, type, the handle; then the name and a NUL.
	const fixed = 4 + 8 + 8
	if len(b) < fixed || b[0] != unix.FAN_EVENT_INFO_TYPE_DFID_NAME {
		return
	}
	size := int(binary.NativeEndian.Uint16(b[2:]))
	handle := int(binary.NativeEndian.Uint32(b[12:]))
	kind := int32(binary.NativeEndian.Uint32(b[16:]))
	if size > len(b) || fixed+handle > size {
		return
	}
	name, _, _ := bytes.Cut(b[fixed+handle:size], []byte{0})
	if bytes.HasPrefix(name, []byte(".buntime")) {
		return // ours, and there is one of each execution
	}
	full, ok := w.locate(unix.NewFileHandle(kind, b[fixed:fixed+handle]), string(name))
	if !ok {
		return
	}
	for r := range w.openers {
		if len(r.names) < maxWritten {
			r.names[full] = struct{}{}
		}
	}
}

// locate finds the path of a name in the directory of a handle. Nothing is
// found of a directory that is gone, of our own files, and of node_modules,
// whose names say nothing to anybody.
func (w *writes) locate(dir unix.FileHandle, name string) (string, bool) {
	base, err := w.root.Open(".")
	if err != nil {
		return "", false
	}
	defer base.Close()
	fd, err := unix.OpenByHandleAt(int(base.Fd()), dir, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", false
	}
	defer unix.Close(fd)
	link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", false
	}
	parent := strings.TrimPrefix(path.Clean("/"+link), "/")
	if parent == "" {
		parent = "."
	}
	full := path.Join(parent, name)
	for part := range strings.SplitSeq(full, "/") {
		if part == "node_modules" {
			return "", false
		}
	}
	if full == historyDir || strings.HasPrefix(full, historyDir+"/") {
		return "", false
	}
	return full, true
}
