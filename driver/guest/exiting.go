// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Fields of /proc/<pid>/stat, counted from the state, which is the third
// (proc(5)).
const (
	statFlags    = 9 - 3
	statExitCode = 52 - 3
	statFields   = 52 - 2
)

// flagExiting is PF_EXITING of the kernel: the thread has begun to exit, and its
// program does nothing any more.
const flagExiting = 0x4

// Bun calls exit 50 to 200 µs after its exit event, unless the program has
// handlers that take longer, or the machine is busy.
const (
	exitPause    = 20 * time.Microsecond
	exitPatience = 20 * time.Millisecond
)

// awaitExit waits, no longer than exitPatience, until process pid has called
// exit, and returns its exit code. It is false where the process does not, died
// of a signal, or is gone.
func awaitExit(pid int) (code int, ok bool) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	defer f.Close()
	buf := make([]byte, 1024)
	begin := time.Now()
	for pause := exitPause; time.Since(begin) < exitPatience; pause += pause / 8 {
		n, err := f.ReadAt(buf, 0)
		if n == 0 && err != nil {
			return 0, false
		}
		if exiting, ws, ok := parseStat(buf[:n]); !ok {
			return 0, false
		} else if exiting {
			return ws.ExitStatus(), ws.Exited()
		}
		// A timer of Go's may take a millisecond where the process does nothing else.
		ts := unix.NsecToTimespec(pause.Nanoseconds())
		_ = unix.Nanosleep(&ts, nil) // a signal only means another look
	}
	return 0, false
}

// parseStat tells whether the process is exiting, and how.
func parseStat(stat []byte) (exiting bool, ws syscall.WaitStatus, ok bool) {
	// The name in parentheses may hold anything; fields count from behind it.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < statFields {
		return false, 0, false
	}
	flags, err := strconv.ParseUint(string(fields[statFlags]), 10, 64)
	if err != nil {
		return false, 0, false
	}
	status, err := strconv.ParseUint(string(fields[statExitCode]), 10, 32)
	return flags&flagExiting != 0, syscall.WaitStatus(status), err == nil
}
