// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package restorer is a process beside the driver plugin, one for each plugin, that
// restores workspaces while they are in use: it serves the files of FUSE that their loop
// devices are bound to. The plugin does things in workspaces itself, and so must not be
// who serves them: killed while it waits for what it alone could answer, it would never
// end, and Nomad would never start the next.
//
// The restorer outlives the plugin, and ends when it serves nothing and no plugin has
// been there for a while. When it dies, the plugin starts another and hands it over what
// there is to serve; whoever needs something of it waits meanwhile. Nothing of what it
// needs is on the disk, neither keys of sessions nor what the store asks for: they come
// through a socket that is root's, and again to the next.
package restorer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/snapshot"
	"github.com/buntime/buntime/driver/snapshot/backend"
)

const (
	socketName = "restorer.sock"
	lockName   = "restorer.lock"
	logName    = "restorer.log"
)

func socketOf(stateDir string) string { return filepath.Join(stateDir, socketName) }

// Restore says where an image comes from.
type Restore struct {
	Store   backend.Config
	Session snapshot.Session
	Pointer snapshot.Pointer
	// Arrived is the path of snapshot.RestoreLazily's note.
	Arrived string
}

// The messages: each is a packet, with descriptors beside it.
const (
	opHold  = "hold"  // keep the restorer; the connection does nothing else
	opLeave = "leave" // the same connection: no plugin will be there for a while
	opServe = "serve" // a device and, but for the first time, an image
	opEnd   = "end"   // who waits for what is not there gets an error

	saysServing = "serving"
	saysDone    = "done"
	saysError   = "error"
	saysFetched = "fetched" // on the connection of opHold, from time to time
)

// message is of either side.
type message struct {
	Op string

	// Of opServe.
	ID      string   `json:",omitempty"`
	Path    string   `json:",omitempty"` // of the image that is to be made; else there is one
	Restore *Restore `json:",omitempty"` // nil if all is there

	Error string   `json:",omitempty"`
	Early []uint32 `json:",omitempty"` // with saysDone: snapshot.Lazy.Learnt

	Fetched *Fetched `json:",omitempty"` // with saysFetched: since the last
}

// longest is more than any message has, longestError what of an error is told.
const longest, longestError = 16 << 10, 4 << 10

// sendTimeout bounds a send, which waits only if the other side reads nothing.
const sendTimeout = 5 * time.Second

func send(c *net.UnixConn, m message, fds ...int) error {
	b, err := json.Marshal(m)
	if err == nil && len(b) > longest {
		err = errors.New("it is too long")
	}
	if err == nil {
		err = c.SetWriteDeadline(time.Now().Add(sendTimeout))
	}
	if err == nil {
		_, _, err = c.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	}
	if err != nil {
		return fmt.Errorf("send %s: %w", m.Op, err)
	}
	return nil
}

// mostFDs come with a message.
const mostFDs = 2

// receive returns the next message, and its descriptors, which are the caller's.
func receive(c *net.UnixConn) (m message, fds []int, err error) {
	b, rights := make([]byte, longest), make([]byte, unix.CmsgSpace(4*mostFDs))
	n, nr, flags, _, err := c.ReadMsgUnix(b, rights)
	if err != nil {
		return m, nil, err
	}
	list, err := unix.ParseSocketControlMessage(rights[:nr])
	for _, one := range list {
		more, perr := unix.ParseUnixRights(&one)
		fds, err = append(fds, more...), errors.Join(err, perr)
	}
	switch {
	case n == 0:
		err = io.EOF
	case err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("a message is cut off")
	case err == nil:
		err = json.Unmarshal(b[:n], &m)
	}
	if err != nil {
		closeAll(fds)
		return m, nil, err
	}
	return m, fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// ofUser says whether the other side is the same user as this process.
func ofUser(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var who *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return cerr == nil && err == nil && int(who.Uid) == os.Getuid()
}
