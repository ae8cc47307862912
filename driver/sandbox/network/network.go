// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Network is the network of one sandbox.
type Network struct {
	manager *Manager
	slot    int // -1: joined, nothing of it is ours
	ns      *namespace
	policy  Policy
	address netip.Addr
	link    int // index of the host's interface, 0: none
	closing sync.Once

	opening sync.Mutex
	opened  map[netip.Addr]time.Time // by the resolver, and until when
	shut    bool                     // nothing is opened any more
}

// NS is the namespace, open until Close or Destroy. A thread that has entered
// it with setns starts the sandbox's init in it; its user namespace stays the
// host's, so that no process of the sandbox has rights over it.
func (n *Network) NS() *os.File { return n.ns.file }

// Address is the sandbox's address on the node. Not valid with [ModeNone] and
// for a joined network, where [Network.DialContext] to a loopback address
// still works.
func (n *Network) Address() netip.Addr { return n.address }

// Close lets go of the network and leaves it to the sandbox. A network that no
// process is in ends with that.
func (n *Network) Close() {
	n.closing.Do(func() {
		if n.ns != nil {
			n.ns.close()
		}
		if n.slot >= 0 {
			n.manager.release(n.slot)
		}
	})
}

// Destroy cuts the sandbox off and removes what is the host's of its network,
// in the background because the kernel takes 15 to 40 ms for it, and now and
// then a second after TCP; errors are logged. Create of the same slot waits
// for that, so give out the slot that was free longest. Only the first call of
// Close or Destroy counts.
func (n *Network) Destroy() {
	if n.link == 0 {
		n.Close()
		return
	}
	n.closing.Do(func() {
		m := n.manager
		m.mu.Lock()
		m.slots[n.slot] = make(chan struct{})
		m.mu.Unlock()
		m.removal.Go(func() {
			m.removes <- struct{}{}
			defer func() { <-m.removes }()
			defer m.release(n.slot)
			if err := n.remove(); err != nil {
				m.log.Warn("sandbox's network not removed", "slot", n.slot, "error", err)
			}
			n.ns.close()
		})
	})
}

// remove deletes the slot's interface, and with it the sandbox's end, and what
// the kernel remembers of its connections: their answers must not reach the
// next sandbox of the slot. To find them the kernel walks its whole table, which takes
// milliseconds; of a sandbox that has never sent anything there are none.
func (n *Network) remove() error {
	silent, err := n.unplug()
	errs := []error{err, n.shutAll()}
	if !silent {
		errs = append(errs, forgetConnections(n.address))
	}
	return errors.Join(errs...)
}
