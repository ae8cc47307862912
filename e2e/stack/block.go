// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox"
)

// block is what one stack has to itself of the things that a machine has but
// once: ports and addresses. Which block is taken stands in a locked
// file. The lock ends with the process that holds it, so a file that says more
// than nothing but is not locked tells of a stack that nobody stopped.
type block struct {
	number int
	dir    string   // of the stack
	file   *os.File // holds the lock
	next   int      // port to try next
}

const (
	registry = "/run/buntime-stacks"

	// Nine blocks of 2500 ports below those that the kernel gives to outgoing
	// connections, which begin at 32768. The first 100 are for the servers,
	// the rest for allocations: two each, so 1200 sessions.
	blocks     = 9
	firstPort  = 10000
	blockPorts = 2500
	ownPorts   = 100

	// A block's sandboxes, of all its clients together: more than it has ports for.
	// So many times sandbox.IDsPerSandbox nine blocks have below
	// sandbox.DefaultLastID.
	blockSandboxes = 3000
	// maxClients is how many may share a block.
	maxClients = 4
)

// acquireBlock takes the first free block for a stack in dir, or in a new
// temporary directory, and removes what dead stacks have left in any block.
func acquireBlock(ctx context.Context, dir string) (*block, error) {
	if err := os.MkdirAll(registry, 0o700); err != nil {
		return nil, fmt.Errorf("make registry of stacks: %w", err)
	}
	var mine *block
	for n := range blocks {
		file, err := lockBlock(n)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("lock block %d of stacks: %w", n, err)
		}
		b := &block{number: n, file: file}
		if err := b.clean(ctx); err != nil {
			b.release()
			return nil, err
		}
		if mine == nil {
			mine = b
		} else {
			b.release()
		}
	}
	if mine == nil {
		return nil, fmt.Errorf("start stack: all %d blocks of ports are in use by other stacks", blocks)
	}
	if err := mine.settle(dir); err != nil {
		mine.release()
		return nil, err
	}
	return mine, nil
}

func lockBlock(n int) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(registry, strconv.Itoa(n)), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// cleanTimeout is ample: what is left are some hundred processes, mounts and
// interfaces at most.
const cleanTimeout = 3 * time.Minute

// clean removes the stack that the block's last holder did not stop.
func (b *block) clean(ctx context.Context) error {
	text, err := os.ReadFile(b.file.Name())
	if err != nil || len(text) == 0 {
		return err
	}
	b.dir = strings.TrimSpace(string(text))
	ctx, cancel := context.WithTimeoutCause(ctx, cleanTimeout, fmt.Errorf("not done within %s", cleanTimeout))
	defer cancel()
	if err := b.debris().remove(ctx); err != nil {
		return fmt.Errorf("remove the stack in %s that was not stopped: %w", b.dir, err)
	}
	return b.forget()
}

// debris is what a stack with this block may leave.
func (b *block) debris() *debris {
	d := newDebris(b.dir)
	d.pool, d.bridge, d.bridgeSubnet = b.pool(), b.bridge(), b.bridgeSubnet()
	return d
}

// settle makes the stack's directory and writes down that it is there.
func (b *block) settle(dir string) error {
	var err error
	if dir == "" {
		dir, err = os.MkdirTemp("", "bt-")
	} else if dir, err = filepath.Abs(dir); err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return fmt.Errorf("make directory of stack: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read directory of stack: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("start stack: %s is not empty", dir)
	}
	b.dir = dir
	b.next = b.firstPort()
	_, err = b.file.WriteAt([]byte(dir), 0)
	return err
}

// forget writes down that nothing of the block is in use any more.
func (b *block) forget() error {
	return b.file.Truncate(0)
}

// release lets others have the block.
func (b *block) release() {
	b.file.Close()
}

// pool is the block's share of 198.18.0.0/15 for sandboxes: a /19 has 4095
// pairs of addresses.
func (b *block) pool() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18 + byte(b.number/8), byte(b.number % 8 * 32), 0}), 19)
}

// pools are the shares of clients of the pool.
func (b *block) pools(clients int) []netip.Prefix {
	bits := 0
	for 1<<bits < clients {
		bits++
	}
	pools := make([]netip.Prefix, clients)
	base := binary.BigEndian.Uint32(b.pool().Addr().AsSlice())
	for i := range pools {
		var addr [4]byte
		binary.BigEndian.PutUint32(addr[:], base+uint32(i)<<(32-b.pool().Bits()-bits))
		pools[i] = netip.PrefixFrom(netip.AddrFrom4(addr), b.pool().Bits()+bits)
	}
	return pools
}

// ids are the host ids for the sandboxes of one of the clients.
func (b *block) ids(client, clients int) (first, last int) {
	each := blockSandboxes / clients * sandbox.IDsPerSandbox
	first = sandbox.DefaultFirstID + b.number*blockSandboxes*sandbox.IDsPerSandbox + client*each
	return first, first + each - 1
}

// bridge is the interface of Nomad's networks in mode "bridge".
func (b *block) bridge() string { return fmt.Sprintf("nomad-e2e%d", b.number) }

// bridgeSubnet is what allocations there have their addresses of, beside that
// of a Nomad with the default settings.
func (b *block) bridgeSubnet() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 27, byte(b.number * 16), 0}), 20)
}

func (b *block) firstPort() int {
	return firstPort + b.number*blockPorts
}

// dynamicPorts is the range for the allocations of one of the clients, both ends
// included.
func (b *block) dynamicPorts(client, clients int) (from, to int) {
	each := (blockPorts - ownPorts) / clients
	from = b.firstPort() + ownPorts + client*each
	return from, from + each - 1
}

// port gives the next of the servers' ports that nobody listens on.
func (b *block) port() (int, error) {
	for ; b.next < b.firstPort()+ownPorts; b.next++ {
		listener, err := net.Listen("tcp", loopback(b.next))
		if err != nil {
			continue
		}
		listener.Close()
		b.next++
		return b.next - 1, nil
	}
	return 0, fmt.Errorf("find free port: all from %d to %d are taken", b.firstPort(), b.firstPort()+ownPorts-1)
}
