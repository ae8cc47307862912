// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	resolvConf = "/etc/resolv.conf"
	// reloadInterval is how long a change of resolv.conf may go unseen.
	reloadInterval = 5 * time.Second
)

// upstreams are the name servers that the resolver asks.
type upstreams struct {
	fixed []netip.AddrPort
	path  string     // read if none are fixed
	own   netip.Addr // never asked, a loop otherwise

	mu      sync.Mutex
	servers []netip.AddrPort
	read    time.Time // when the file was last looked at
	changed time.Time // the file's time then
}

func newUpstreams(c Config) *upstreams {
	return &upstreams{fixed: c.Resolvers, path: resolvConf, own: c.resolver()}
}

// list returns at least one server or an error.
func (u *upstreams) list() ([]netip.AddrPort, error) {
	if len(u.fixed) > 0 {
		return u.fixed, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.read) > reloadInterval {
		if err := u.reload(); err != nil {
			return nil, fmt.Errorf("read name servers: %w", err)
		}
	}
	if len(u.servers) == 0 {
		return nil, errors.New(u.path + " names no server")
	}
	return u.servers, nil
}

func (u *upstreams) reload() error {
	info, err := os.Stat(u.path)
	if err != nil {
		return err
	}
	u.read = time.Now()
	if info.ModTime().Equal(u.changed) {
		return nil
	}
	file, err := dns.ClientConfigFromFile(u.path)
	if err != nil {
		return err
	}
	u.servers = nil
	for _, server := range file.Servers {
		a, err := netip.ParseAddr(server)
		if err == nil && a != u.own {
			u.servers = append(u.servers, netip.AddrPortFrom(a, 53))
		}
	}
	u.changed = info.ModTime()
	return nil
}
