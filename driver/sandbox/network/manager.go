// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// closeTimeout bounds what Close waits for: removals under way, a second at
// worst, and the resolver's open queries.
const closeTimeout = 30 * time.Second

// prepareRetry is the pause after a namespace could not be made in advance,
// for which the reason is a full machine. Create tries by itself meanwhile.
const prepareRetry = time.Second

// removeParallel is how many sandboxes are removed at once. Each blocks
// a thread, most of the time waiting for others' locks in the kernel: 50 at
// once took 78 ms, one after the other a second.
const removeParallel = 32

// Manager makes, finds and removes the networks of a node's sandboxes. Its
// methods may be called at the same time.
type Manager struct {
	config   Config
	log      hclog.Logger
	host     *os.File // the host's network namespace
	firewall *firewall
	resolver *resolver
	closed   []span // where no sandbox gets a connection
	mtu      int    // of veths, 0 leaves the kernel's
	ready    chan *namespace

	stop    context.CancelFunc
	workers sync.WaitGroup // what Close ends
	removal sync.WaitGroup // removals in the background
	removes chan struct{}  // holds a place for each that runs

	mu        sync.Mutex
	slots     map[int]chan struct{} // in use: nil; being removed: closed when done
	networks  map[netip.Addr]*Network
	inherited []opening // of an earlier process
	ended     bool
}

// New sets up what the sandboxes of a node share, or takes it over from an
// earlier process, and starts the resolver.
func New(config Config, log hclog.Logger) (_ *Manager, err error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("read network configuration: %w", err)
	}
	config = config.withDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	m := &Manager{
		config:   config,
		log:      log,
		firewall: newFirewall(config),
		closed:   config.closed(),
		ready:    make(chan *namespace, max(config.Ready-1, 0)), // prepare holds one more
		stop:     cancel,
		removes:  make(chan struct{}, removeParallel),
		slots:    make(map[int]chan struct{}),
		networks: make(map[netip.Addr]*Network),
	}
	defer func() {
		if err != nil {
			m.Close(false)
		}
	}()
	if m.host, err = hostNamespace(); err != nil {
		return nil, fmt.Errorf("open host's network namespace: %w", err)
	}
	outward, err := outwardLinks(config)
	if err != nil {
		return nil, fmt.Errorf("find the interfaces that lead outside: %w", err)
	}
	m.mtu = smallestMTU(outward)
	events, err := watchTables()
	if err != nil {
		return nil, fmt.Errorf("watch nft tables: %w", err)
	}
	defer func() {
		if err != nil {
			events.Close()
		}
	}()
	if err := m.firewall.install(); err != nil {
		return nil, fmt.Errorf("install nft table %s: %w", config.tableName(), err)
	}
	if m.inherited, err = m.firewall.allowed(); err != nil {
		return nil, fmt.Errorf("read allow lists of nft table %s: %w", config.tableName(), err)
	}
	for _, w := range foreignDrops() {
		log.Warn("another firewall drops by default what it does not know; let the sandboxes' interfaces pass in it",
			"chain", w, "interfaces", linkPrefix+"+")
	}
	if err := m.forward(outward); err != nil {
		return nil, err
	}
	if err := addServiceAddress(config); err != nil {
		return nil, fmt.Errorf("add service address %s to lo: %w", config.resolver(), err)
	}
	if m.resolver, err = listenResolver(config, m.sandboxAt, log); err != nil {
		return nil, fmt.Errorf("start resolver: %w", err)
	}
	m.workers.Go(func() { m.followUplinks(ctx) })
	m.workers.Go(func() { m.keepTable(ctx, events) })
	if config.Ready > 0 {
		m.workers.Go(func() { m.prepare(ctx) })
	}
	return m, nil
}

// Resolver is the address, port 53, at which sandboxes ask for names.
func (m *Manager) Resolver() netip.Addr { return m.config.resolver() }

// Slots is how many sandboxes the pool has addresses for; slots count from 0.
func (m *Manager) Slots() int { return m.config.slots() }

// Check says whether the node can keep a policy: a range that is closed to all
// sandboxes of the node is refused now rather than when it is missed.
func (m *Manager) Check(policy Policy) error {
	for _, r := range policy.Ranges {
		if covered(m.closed, r) {
			return fmt.Errorf("allow list has %s, which this node's configuration closes to all sandboxes", r)
		}
	}
	return nil
}

// Create makes the network of a new sandbox. The caller has the sandbox's init
// join NS and ends it with Destroy. It waits for an earlier sandbox of the
// slot that is being removed; one that is in use is [ErrBusy].
func (m *Manager) Create(ctx context.Context, slot int, policy Policy) (_ *Network, err error) {
	if err := m.Check(policy); err != nil {
		return nil, err
	}
	n, err := m.reserve(ctx, slot, policy)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if n.ns, err = m.takeNamespace(); err != nil {
		return nil, err
	}
	if !n.address.IsValid() {
		return n, nil
	}
	if err := n.plug(); err != nil {
		return nil, fmt.Errorf("connect slot %d: %w", slot, err)
	}
	if err := n.openRanges(); err != nil {
		return nil, errors.Join(err, n.remove())
	}
	m.know(n)
	return n, nil
}

// know lets the resolver find the sandbox.
func (m *Manager) know(n *Network) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.networks[n.address] = n
}

// sandboxAt finds the sandbox with an address; nil is one that has not been
// opened since the start of this process.
func (m *Manager) sandboxAt(address netip.Addr) *Network {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.networks[address]
}

// Open finds the network of a sandbox again that lives in slot and has the
// process pid, after a restart of the calling process.
func (m *Manager) Open(ctx context.Context, slot, pid int, policy Policy) (_ *Network, err error) {
	n, err := m.reserve(ctx, slot, policy)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if n.ns, err = m.openNamespace(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil {
		return nil, fmt.Errorf("open network namespace of process %d: %w", pid, err)
	}
	if !n.address.IsValid() {
		return n, nil
	}
	if err := n.findLink(); err != nil {
		return nil, fmt.Errorf("find connection of slot %d: %w", slot, err)
	}
	n.inherit(m.inherited)
	if err := n.openRanges(); err != nil { // if the table is not what it was
		return nil, err
	}
	m.know(n)
	return n, nil
}

// Join opens a namespace that somebody else made and will remove: Nomad's for
// an allocation with a bridge or CNI network. What it reaches is their say.
func (m *Manager) Join(path string) (*Network, error) {
	ns, err := m.openNamespace(path)
	if err != nil {
		return nil, fmt.Errorf("join network namespace: %w", err)
	}
	return &Network{manager: m, slot: -1, ns: ns}, nil
}

// Sweep removes the connections of sandboxes that are neither in keep nor
// known to this Manager: call it after Open of all that live.
func (m *Manager) Sweep(keep []int) error {
	links, err := sandboxLinks(m.config)
	if err != nil {
		return fmt.Errorf("list the sandboxes' interfaces: %w", err)
	}
	kept := make(map[int]bool, len(keep))
	for _, slot := range keep {
		kept[slot] = true
	}
	var errs []error
	for slot := range links {
		if kept[slot] {
			continue
		}
		n, err := m.reserve(context.Background(), slot, Policy{Mode: ModeInternet})
		if errors.Is(err, ErrBusy) {
			continue
		}
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, n.remove())
		m.release(slot)
	}
	return errors.Join(append(errs, m.firewall.shutDead())...)
}

// Close ends the resolver and what else runs in this process. Sandboxes keep
// their networks, without names until a Manager is made again. With removeAll
// the node is left as it was before the first New, which is refused as long as
// there are sandboxes.
func (m *Manager) Close(removeAll bool) error {
	m.stop()
	m.mu.Lock()
	ended := m.ended
	m.ended = true
	m.mu.Unlock()
	if ended {
		return nil
	}
	m.workers.Wait()
	close(m.ready)
	for ns := range m.ready {
		ns.close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := waitContext(ctx, &m.removal, "removal of sandboxes' interfaces")
	if m.resolver != nil {
		err = errors.Join(err, m.resolver.close(ctx))
	}
	if removeAll {
		err = errors.Join(err, m.removeShared())
	}
	err = errors.Join(err, m.firewall.close())
	if m.host != nil {
		err = errors.Join(err, m.host.Close())
	}
	return err
}

// removeShared undoes New's changes to the node, in reverse.
func (m *Manager) removeShared() error {
	links, err := sandboxLinks(m.config)
	if err != nil {
		return fmt.Errorf("list the sandboxes' interfaces: %w", err)
	}
	if len(links) > 0 {
		return fmt.Errorf("keep the node's network: %d sandboxes are connected", len(links))
	}
	return errors.Join(removeServiceAddress(m.config), m.unforward(), m.firewall.remove())
}

// reserve takes a slot.
func (m *Manager) reserve(ctx context.Context, slot int, policy Policy) (*Network, error) {
	if slot < 0 || slot >= m.config.slots() {
		return nil, fmt.Errorf("slot %d of %d: %w", slot, m.config.slots(), ErrSlot)
	}
	n := &Network{manager: m, slot: slot, policy: policy, opened: make(map[netip.Addr]time.Time)}
	switch policy.Mode {
	case ModeNone:
	case ModeInternet, ModeAllow:
		_, n.address = m.config.pair(slot)
	default:
		return nil, fmt.Errorf("network mode %q: want %s, %s or %s", policy.Mode, ModeNone, ModeInternet, ModeAllow)
	}
	for {
		removed, err := m.tryReserve(slot)
		if err != nil {
			return nil, err
		}
		if removed == nil {
			return n, nil
		}
		select {
		case <-removed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the removal of slot %d's earlier sandbox: %w", slot, context.Cause(ctx))
		}
	}
}

// tryReserve takes a slot, or returns what to wait for.
func (m *Manager) tryReserve(slot int) (removed chan struct{}, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return nil, os.ErrClosed
	}
	removed, used := m.slots[slot]
	if used && removed == nil {
		return nil, fmt.Errorf("slot %d: %w", slot, ErrBusy)
	}
	if !used {
		m.slots[slot] = nil
	}
	return removed, nil
}

// release gives a slot back.
func (m *Manager) release(slot int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if removed := m.slots[slot]; removed != nil {
		close(removed)
	}
	delete(m.slots, slot)
	_, address := m.config.pair(slot)
	delete(m.networks, address)
}

// takeNamespace returns one made in advance, or makes one.
func (m *Manager) takeNamespace() (*namespace, error) {
	select {
	case ns, ok := <-m.ready:
		if ok {
			return ns, nil
		}
	default:
	}
	return m.newNamespace()
}

// prepare keeps m.ready full.
func (m *Manager) prepare(ctx context.Context) {
	for ctx.Err() == nil {
		ns, err := m.newNamespace()
		if err != nil {
			m.log.Warn("no network namespace made in advance", "error", err)
			select {
			case <-time.After(prepareRetry):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case m.ready <- ns:
		case <-ctx.Done():
			ns.close()
		}
	}
}

// waitContext waits for wg until ctx ends.
func waitContext(ctx context.Context, wg *sync.WaitGroup, what string) error {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", what, ctx.Err())
	}
}
