// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	swiftstore "github.com/buntime/buntime/driver/snapshot/store/swift"
)

// nothingLeft wants nothing on the nodes, in Nomad, Consul and Swift of sessions that
// are all deleted.
func (r *run) nothingLeft() {
	ctx, cancel := context.WithTimeoutCause(r.ctx, cleanWithin, fmt.Errorf("not clean after %v", cleanWithin))
	defer cancel()
	var last []string // what the last look has found that was not cut off
	for begin := time.Now(); ; {
		var left []string
		var errs []error
		for _, look := range []func(context.Context) ([]string, error){r.onNodes, r.files, r.fuse, r.jobs, r.keys, r.objects} {
			some, err := look(ctx)
			left, errs = append(left, some...), append(errs, err)
		}
		err := errors.Join(errs...)
		if err == nil && len(left) == 0 {
			r.Progress("%s nothing is left %v after the last session was deleted", r.elapsed(), time.Since(begin).Round(10*time.Millisecond))
			return
		}
		if err == nil {
			last = left
		}
		if !wait(ctx, 300*time.Millisecond) {
			r.tally.violate(nil, "left of deleted sessions: %v, %v\n\t%s", context.Cause(ctx), err, strings.Join(last, "\n\t"))
			return
		}
	}
}

func (r *run) onNodes(ctx context.Context) ([]string, error) {
	left, err := r.Leftovers(ctx)
	left = slices.DeleteFunc(left, func(what string) bool {
		return strings.Contains(what, "/workspaces/ready/") // kept for sessions to come
	})
	return left, err
}

// files are those of allocations, sandboxes and workspaces.
func (r *run) files(context.Context) (left []string, err error) {
	for _, pattern := range []string{"driver*/sandboxes/*", "driver*/workspaces/*.img", "driver*/workspaces/trash/*", "client*/alloc/*"} {
		paths, err := filepath.Glob(filepath.Join(r.Dir, pattern))
		if err != nil {
			return nil, err
		}
		left = append(left, paths...)
	}
	return left, nil
}

// fuse are the connections of FUSE that were mounted for a session's workspace, and
// are there although nothing is mounted any more.
func (r *run) fuse(context.Context) (left []string, err error) {
	_, all, err := mounted(r.Dir)
	if err != nil {
		return nil, err
	}
	r.witness.mu.Lock()
	defer r.witness.mu.Unlock()
	for minor := range r.witness.fuse {
		if _, err := os.Stat("/sys/fs/fuse/connections/" + minor); err == nil && !all[minor] {
			left = append(left, "FUSE connection "+minor)
		}
	}
	return left, nil
}

// mounted are the minor numbers of the file systems of FUSE below a directory, and of
// all that the machine has: a number may be another's by now.
func mounted(dir string) (own, all map[string]bool, err error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, nil, fmt.Errorf("list mounts: %w", err)
	}
	own, all = map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(string(text)) {
		// 36 35 0:57 / /mount/point rw - fuse source rw
		fields := strings.Fields(line)
		_, rest, _ := strings.Cut(line, " - ")
		if len(fields) < 5 || !strings.HasPrefix(rest, "fuse") {
			continue
		}
		_, minor, _ := strings.Cut(fields[2], ":")
		all[minor] = true
		if strings.HasPrefix(fields[4], dir+"/") {
			own[minor] = true
		}
	}
	return own, all, nil
}

func (r *run) jobs(context.Context) (left []string, err error) {
	jobs, _, err := r.Nomad.Jobs().List(nil)
	for _, job := range jobs {
		left = append(left, "job "+job.ID+", "+job.Status)
	}
	return left, err
}

// keys are all below the prefix but for the lock of the front-end that leads.
func (r *run) keys(context.Context) (left []string, err error) {
	keys, _, err := r.Consul.KV().Keys("buntime/", "", nil)
	for _, key := range keys {
		if key != "buntime/leader" {
			left = append(left, "key "+key)
		}
	}
	return left, err
}

func (r *run) objects(ctx context.Context) (left []string, err error) {
	store, err := swiftstore.New(swiftstore.Config{AuthURL: r.Swift.AuthURL(), User: r.Swift.User(), Key: r.Swift.Key(), Container: "sessions"})
	if err != nil {
		return nil, err
	}
	defer store.Close()
	for folder, err := range store.Folders(ctx, "") {
		if err != nil {
			return left, err
		}
		left = append(left, "stored objects of "+folder)
	}
	return left, nil
}

// resources are how many files the parts of ours have open: what their leaks show in.
func (r *run) resources() (map[string]int, error) {
	pids, err := r.Pids()
	if err != nil {
		return nil, err
	}
	open := map[string]int{}
	for part, pid := range pids {
		if !strings.HasPrefix(part, "plugin") && !strings.HasPrefix(part, "front-end") {
			continue
		}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			return nil, fmt.Errorf("count files of %s: %w", part, err)
		}
		open[part] = len(fds)
	}
	return open, nil
}

// growth is how many files more than at the start a part may have open in the end:
// connections to the others that it keeps for a while, as many as 40 to Consul.
const growth = 100

func (r *run) notGrown(before map[string]int) error {
	for _, api := range r.apis {
		api.HTTP.CloseIdleConnections()
	}
	for begin := time.Now(); ; {
		after, err := r.resources()
		if err != nil {
			return err
		}
		var grown []string
		for part, n := range after {
			if n > before[part]+growth {
				grown = append(grown, fmt.Sprintf("%s has %d files open, and had %d", part, n, before[part]))
			}
		}
		if len(grown) == 0 {
			r.Progress("%s files open: %v, at the start %v", r.elapsed(), after, before)
			return nil
		}
		if time.Since(begin) > cleanWithin {
			r.tally.violate(nil, "%s", strings.Join(grown, ", "))
			return nil
		}
		if !wait(r.ctx, time.Second) {
			return context.Cause(r.ctx)
		}
	}
}
