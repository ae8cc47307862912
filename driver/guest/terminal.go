// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// openTerminal returns both ends of a new terminal, the second for a process of
// uid.
func openTerminal(uid int) (main, sub *os.File, err error) {
	main, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open terminal: %w", err)
	}
	defer func() {
		if err != nil {
			main.Close()
		}
	}()
	fd := int(rawFD(main))
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock terminal: %w", err)
	}
	// Not by its name, which would be looked up in a /dev that may be another's.
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, nil, fmt.Errorf("open other end of terminal: %w", errno)
	}
	sub = os.NewFile(peer, "terminal")
	// The process may want to open /dev/tty, or its name, again.
	if err := unix.Fchown(int(peer), uid, -1); err != nil {
		sub.Close()
		return nil, nil, fmt.Errorf("give terminal to uid %d: %w", uid, err)
	}
	return main, sub, nil
}

// resize tells a terminal its size; the kernel signals its foreground group.
func resize(terminal *os.File, size wire.Size) {
	_ = unix.IoctlSetWinsize(int(rawFD(terminal)), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
}
