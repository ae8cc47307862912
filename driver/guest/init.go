// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// The descriptors that init is started with (wire.Boot).
const (
	bootFD = 3 + iota
	listenerFD
	exitFD
	statusFD
	keptFD // may be missing; init does nothing with it, and it goes with init
)

// bootTimeout bounds the wait for the Boot, which comes right after the start.
const bootTimeout = 30 * time.Second

// workspace is where a sandbox has the session's files.
const workspace = "/workspace"

// Init is PID 1 of a sandbox. It returns when the sandbox has come to its end.
func Init(ctx context.Context) error {
	for fd := bootFD; fd <= keptFD; fd++ {
		unix.CloseOnExec(fd)
	}
	status := os.NewFile(statusFD, "status")
	defer status.Close()
	cfg, l, err := boot()
	if err == nil {
		cfg.Ready = func() error {
			if _, err := status.WriteString("ok\n"); err != nil {
				return fmt.Errorf("tell that init serves: %w", err)
			}
			return status.Close()
		}
		err = Serve(ctx, cfg, l)
	}
	if err != nil {
		_, _ = fmt.Fprintf(status, "%v\n", err) // where nobody listens any more, nobody is to be told
	}
	return err
}

// boot makes the sandbox and returns what to serve, and where.
func boot() (Config, *net.UnixListener, error) {
	b, fds, err := receiveBoot()
	if err != nil {
		return Config{}, nil, err
	}
	b.Mounts = append(b.Mounts, wire.Mount{Type: "file", Target: GatePath, Content: Gate})
	cfg := Config{
		Env: b.Env, UID: b.UID, GID: b.GID, Bun: b.Bun, Gate: GatePath, Workspace: workspace,
		MaxFiles: b.MaxFiles, Seccomp: b.Seccomp, Landlock: b.Landlock, Without: b.Without,
		Exit: os.NewFile(exitFD, "exit"),
	}
	if b.Listen != "" {
		closeAll(fds)
		l, err := moveIn(b, &cfg)
		return cfg, l, err
	}
	l, err := inherited(listenerFD, net.FileListener)
	if err != nil {
		return Config{}, nil, fmt.Errorf("take over listening socket: %w", err)
	}
	listener, ok := l.(*net.UnixListener)
	if !ok {
		return Config{}, nil, fmt.Errorf("listening socket is a %T", l)
	}
	return cfg, listener, Boot(b, fds)
}

// receiveBoot returns the Boot and the descriptors that came with it.
func receiveBoot() (b wire.Boot, fds []int, err error) {
	conn, err := inherited(bootFD, net.FileConn)
	if err != nil {
		return b, nil, fmt.Errorf("take over boot socket: %w", err)
	}
	sock, ok := conn.(*net.UnixConn)
	if !ok {
		return b, nil, fmt.Errorf("boot socket is a %T", conn)
	}
	c := wire.NewConn(sock)
	defer c.Discard()
	if err := c.SetReadDeadline(time.Now().Add(bootTimeout)); err != nil {
		return b, nil, err
	}
	f, err := c.Read()
	if err != nil {
		return b, nil, fmt.Errorf("read boot: %w", err)
	}
	if f.Kind != wire.KindBoot {
		f.CloseFDs()
		return b, nil, errors.New("read boot: another frame came")
	}
	if err := json.Unmarshal(f.Payload, &b); err != nil {
		f.CloseFDs()
		return b, nil, fmt.Errorf("parse boot: %w", err)
	}
	return b, f.FDs, nil
}

// inherited makes a connection or listener of a descriptor, which it closes.
func inherited[T any](fd uintptr, open func(*os.File) (T, error)) (T, error) {
	f := os.NewFile(fd, "inherited")
	defer f.Close()
	return open(f)
}
