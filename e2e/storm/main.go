// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Command storm is hostile native code for the tests to run inside a session. It
// takes all that it can get of one thing, prints what that was as a line of
// JSON, and holds on to it until it is killed.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("usage: storm files PROCESSES | one | objects | connect ADDRESS COUNT | knock ADDRESS | serve COUNT | sockets COUNT"))
	}
	number := func(i int) int {
		n, err := strconv.Atoi(os.Args[i])
		if err != nil {
			fail(err)
		}
		return n
	}
	switch os.Args[1] {
	case "files":
		files(number(2))
	case "one":
		say(map[string]int{"files": openAll()})
		hold()
	case "objects":
		objects()
	case "serve":
		serve(number(2))
	case "connect":
		say(map[string]int{"connections": connect(os.Args[2], number(3))})
		hold()
	case "knock":
		knock(os.Args[2])
	case "sockets":
		sockets(number(2))
	default:
		fail(fmt.Errorf("unknown storm %q", os.Args[1]))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "storm:", err)
	os.Exit(2)
}

func say(v any) {
	line, err := json.Marshal(v)
	if err != nil {
		fail(err)
	}
	fmt.Println(string(line))
}

func hold() { time.Sleep(time.Hour) }

// openAll opens files until it may not.
func openAll() int {
	for n := 0; ; n++ {
		if _, err := unix.Open("/dev/null", unix.O_RDONLY, 0); err != nil {
			return n
		}
	}
}

// files has as many processes open all the files that they may.
func files(processes int) {
	total := 0
	for range processes {
		line, ok := child("one")
		if !ok {
			break // no room for another process
		}
		var held struct{ Files int }
		if json.Unmarshal([]byte(line), &held) == nil {
			total += held.Files
		}
	}
	say(map[string]int{"files": total})
	hold()
}

// child starts a storm of this program's and returns the line that it says.
func child(args ...string) (string, bool) {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return "", false
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	return line, err == nil
}

// most bounds what is taken of each kind, so that the first does not take the
// files of all others.
const most = 1500

// objects takes what the kernel has of its kinds of objects.
func objects() {
	taken := map[string]int{}
	for _, kind := range []struct {
		name string
		take func(i int) error
	}{
		{"watches", watches()},
		{"inotify", func(int) error { _, err := unix.InotifyInit1(0); return err }},
		{"fanotify", func(int) error { _, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_REPORT_FID, 0); return err }},
		{"terminals", terminal},
		{"queues", queue},
		{"messages", func(int) error { return sysv(unix.SYS_MSGGET, 0, unix.IPC_CREAT|0o600, 0) }},
		{"semaphores", func(int) error { return sysv(unix.SYS_SEMGET, 0, 250, unix.IPC_CREAT|0o600) }},
		{"segments", segment},
		{"timers", timer},
		{"keys", key},
		{"namespaces", namespace},
		{"epolls", func(int) error { _, err := unix.EpollCreate1(0); return err }},
	} {
		n := 0
		for ; n < most; n++ {
			if kind.take(n) != nil {
				break
			}
		}
		taken[kind.name] = n
	}
	say(taken)
	hold()
}

func sysv(nr, a, b, c uintptr) error {
	if _, _, errno := unix.Syscall(nr, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

func segment(int) error {
	return sysv(unix.SYS_SHMGET, 0, 4096, unix.IPC_CREAT|0o600)
}

func terminal(int) error {
	_, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
	return err
}

func queue(i int) error {
	name, err := unix.BytePtrFromString("storm-" + strconv.Itoa(i))
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_CREAT|unix.O_RDWR, 0o600, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func timer(int) error {
	var id int32
	_, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, 0, uintptr(unsafe.Pointer(&id)))
	if errno != 0 {
		return errno
	}
	return nil
}

func key(i int) error {
	_, err := unix.AddKey("user", "storm-"+strconv.Itoa(i), []byte("x"), unix.KEY_SPEC_USER_KEYRING)
	return err
}

// watches adds one inotify watch after the other, of files of their own.
func watches() func(int) error {
	fd := -1
	return func(i int) error {
		if fd < 0 {
			var err error
			if fd, err = unix.InotifyInit1(0); err != nil {
				return err
			}
		}
		name := "/tmp/watched-" + strconv.Itoa(i)
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			return err
		}
		_, err := unix.InotifyAddWatch(fd, name, unix.IN_MODIFY)
		return err
	}
}

// namespace starts a process in a user namespace of its own.
func namespace(i int) error {
	if i >= 200 { // processes are another storm
		return unix.EAGAIN
	}
	cmd := exec.Command("/bin/sleep", "3600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET}
	return cmd.Start()
}

// serve has a child for clients that open count connections to it.
func serve(count int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				continue // no file is left
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
	line, ok := child("connect", l.Addr().String(), strconv.Itoa(count))
	if !ok {
		fail(errors.New("the clients have ended"))
	}
	fmt.Print(strings.TrimSpace(line), "\n")
	hold()
}

// connect opens up to count connections to an address and keeps them.
func connect(address string, count int) int {
	opened := make(chan bool)
	for range 64 {
		go func() {
			for range count / 64 {
				c, err := net.DialTimeout("tcp", address, 2*time.Second)
				if err == nil {
					_, err = c.Write([]byte("storm"))
				}
				opened <- err == nil
			}
		}()
	}
	n := 0
	for range count / 64 * 64 {
		if <-opened {
			n++
		}
	}
	return n
}

// knock opens connections to an address that need not answer, one after the
// other at 64 places, and waits for none.
func knock(address string) {
	for range 64 {
		go func() {
			for {
				if c, err := net.DialTimeout("tcp", address, 50*time.Millisecond); err == nil {
					_ = c.Close()
				}
			}
		}()
	}
	hold()
}

// sockets fills the buffers of connections to itself that nobody reads.
func sockets(count int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail(err)
	}
	filled, opened := 0, 0
	chunk := make([]byte, 1<<20)
	var kept []net.Conn
	for range count {
		c, err := net.DialTimeout("tcp", l.Addr().String(), time.Second)
		if err != nil {
			break
		}
		other, err := l.Accept()
		if err != nil {
			break
		}
		kept = append(kept, c, other)
		opened++
		_ = c.(*net.TCPConn).SetWriteBuffer(64 << 20)
		_ = other.(*net.TCPConn).SetReadBuffer(64 << 20)
		for {
			_ = c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
			n, err := c.Write(chunk)
			filled += n
			if err != nil {
				break
			}
		}
	}
	say(map[string]int{"connections": opened, "bytes": filled})
	hold()
	_ = kept
}
