// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// debris is what a stack may leave on the machine, and how it is known to be
// that stack's: by its directory, its addresses, the ids of its allocations
// and the marker in the environment of its processes.
type debris struct {
	dir     string
	clients string   // whose allocations count: allClients, or a suffix
	mark    string   // in the environment of its processes
	dirs    []string // what is below them is its
	pool    netip.Prefix
	allocs  map[string]bool
	// bridge is that of Nomad's networks in mode "bridge".
	bridge       string
	bridgeSubnet netip.Prefix
	// running says that the servers are to be there, so that only what belongs
	// to allocations counts.
	running bool
}

// allClients is a pattern of all suffixes.
const allClients = "*"

// newDebris is what a stack in dir may have left that is over.
func newDebris(dir string) *debris {
	return &debris{dir: dir, clients: allClients, mark: marker + "=" + dir, dirs: []string{dir}, allocs: map[string]bool{}}
}

// item is one thing left.
type item struct {
	what   string
	remove func() error
	// ofNode says that it belongs to no session: the plugin makes it once and
	// a plugin that is killed leaves it to the next.
	ofNode bool
}

// find looks for everything, in the order in which it can be removed.
func (d *debris) find() ([]item, error) {
	maps.Copy(d.allocs, allocIDs(d.dir, d.clients))
	var all []item
	for _, look := range []func() ([]item, error){
		d.processes, d.mounts, d.loops, d.incoming, d.cgroups, d.links, d.bridges, d.tables,
	} {
		items, err := look()
		if err != nil {
			return nil, err
		}
		all = append(all, items...)
	}
	return all, nil
}

// remove removes everything and then the directory. Some things go only once
// others have gone, so it looks again until there is nothing or ctx is done.
func (d *debris) remove(ctx context.Context) error {
	const pause = 20 * time.Millisecond // what a killed process takes to go
	for {
		items, err := d.find()
		if err != nil {
			return err
		}
		if len(items) == 0 {
			return os.RemoveAll(d.dir)
		}
		var errs []error
		for _, item := range items {
			if err := item.remove(); err != nil {
				errs = append(errs, fmt.Errorf("remove %s: %w", item.what, err))
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return errors.Join(append(errs, fmt.Errorf("remove what a stack left: %d things are still there: %w", len(items), context.Cause(ctx)))...)
		}
	}
}

// Leftovers lists what sessions and other tasks have on the machine, and of a
// stopped stack everything: processes, mounts, loop devices, cgroups, network
// interfaces, nft tables. A running stack's servers do not count, nor do the
// directories of ended allocations, which Nomad's client keeps for hours: it
// is asked to let go of them.
func (s *Stack) Leftovers(ctx context.Context) ([]string, error) {
	if err := s.noteAllocs(ctx); err != nil {
		return nil, err
	}
	for _, c := range s.Clients {
		if err := c.collect(ctx); err != nil {
			return nil, err
		}
	}
	items, err := s.debris().find()
	if err != nil {
		return nil, fmt.Errorf("look for leftovers: %w", err)
	}
	return texts(items), nil
}

// texts are the items that a session may not leave.
func texts(items []item) []string {
	var list []string
	for _, item := range items {
		if !item.ofNode {
			list = append(list, item.what)
		}
	}
	return list
}

func (s *Stack) debris() *debris {
	d := s.block.debris()
	for _, p := range s.parts() {
		d.running = d.running || p.Alive()
	}
	for _, c := range s.Clients {
		maps.Copy(c.allocs, allocIDs(s.Dir, suffix(c.number))) // to be known when its files are gone
		maps.Copy(d.allocs, c.allocs)
	}
	return d
}

// allocIDs gives the ids of the allocations that a stack's clients, or the one with
// a suffix, or their drivers still have. A driver may know some that Nomad has
// forgotten.
func allocIDs(dir, clients string) map[string]bool {
	ids := map[string]bool{}
	allocs, _ := filepath.Glob(filepath.Join(dir, "client"+clients, allocsIn, "*")) // the patterns are right
	for _, alloc := range allocs {
		ids[filepath.Base(alloc)] = true
	}
	states, _ := filepath.Glob(filepath.Join(dir, "driver"+clients, "sandboxes/*/*.json"))
	for _, state := range states {
		text, _ := os.ReadFile(state) // empty if it has gone meanwhile
		for _, id := range uuidPattern.FindAllString(string(text), -1) {
			ids[id] = true
		}
	}
	return ids
}

var uuidPattern = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
