// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/metrics"
	"github.com/buntime/buntime/driver/restorer"
	"github.com/buntime/buntime/driver/sandbox"
	"github.com/buntime/buntime/driver/sandbox/workspace"
	"github.com/buntime/buntime/driver/snapshot"
)

const (
	// wokenFile, in a sandbox's notes, is the pointer to the snapshot that its
	// workspace is restored from, arrivedFile how much of it has come. They are there
	// until all has.
	wokenFile   = "woken.json"
	arrivedFile = "arrived"
)

// awaken returns what makes the workspace of a session that has lived before, nil
// for one that has not.
func (a *Agent) awaken(task *driver.Task) func(ctx context.Context, path, notes string) (workspace.Source, error) {
	if task.Session.Epoch <= 1 {
		return nil
	}
	return func(ctx context.Context, path, notes string) (workspace.Source, error) {
		defer metrics.Stage(metrics.Wake, "image", time.Now())
		if own, _, err := task.Rests.Load(ctx, task.Session.Epoch); err != nil || own.Over() {
			return nil, errors.Join(err, fmt.Errorf("this life of the session is over before it has begun: %w", driver.ErrFenced))
		}
		last, ok, err := task.Rests.Last(ctx, task.Session.Epoch)
		if err != nil {
			return nil, fmt.Errorf("find the session's last snapshot: %w", err)
		}
		if !ok {
			return nil, errors.New("the session has lived before, and nothing says where its workspace is")
		}
		who, err := snapshotted(ctx, task)
		if err != nil {
			return nil, err
		}
		// gVisor reads the workspace by itself, and outlives nothing.
		if a.restorer == nil || sandbox.Isolation(task.Isolation) == sandbox.IsolationGVisor {
			return nil, a.snapshots.Restore(ctx, who, last.Snapshot, path)
		}
		b, err := json.Marshal(last.Snapshot)
		if err == nil {
			err = os.WriteFile(filepath.Join(notes, wokenFile), b, 0o600)
		}
		if err != nil {
			return nil, fmt.Errorf("note what the session wakes from: %w", err)
		}
		return a.source(who, last.Snapshot, notes), nil
	}
}

// restored is the workspace.Source that the restorer is.
type restored struct {
	agent   *Agent
	restore *restorer.Restore // nil if all is there
}

// source restores a snapshot, as far as notes say that it has not been.
func (a *Agent) source(who snapshot.Session, p snapshot.Pointer, notes string) restored {
	return restored{a, &restorer.Restore{
		Store: a.config.Store, Session: who, Pointer: p, Arrived: filepath.Join(notes, arrivedFile),
	}}
}

// Serve implements workspace.Source.
func (r restored) Serve(ctx context.Context, h workspace.Handover) (workspace.Service, error) {
	req := restorer.Request{ID: h.ID, Path: h.Path, Image: h.Image, Device: h.Device, Restore: r.restore}
	if r.restore != nil {
		begin := time.Now()
		req.Learnt = func(early []uint32) {
			metrics.Restores.Since(begin, nil)
			r.agent.snapshots.Learn(r.restore.Session.ID, early)
		}
	}
	served, err := r.agent.restorer.Serve(ctx, req)
	if err != nil {
		return nil, err // and no interface that is not nil
	}
	return served, nil
}

// nothingTimeout bounds what a task that could not start does after that.
const nothingTimeout = 5 * time.Second

// cameToNothing notes that a life of a session could not begin here, so that nobody
// waits for it, or takes it for one whose node was lost with what it had.
func (a *Agent) cameToNothing(ctx context.Context, task *driver.Task) error {
	s := task.Session
	if s == nil || s.Epoch <= 1 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), nothingTimeout, fmt.Errorf("not noted in %s", nothingTimeout))
	defer cancel()
	if _, ok, err := task.Rests.Last(ctx, s.Epoch); err != nil || !ok {
		return err // there is nothing that it could be begun from elsewhere
	}
	_, err := task.Rests.Note(ctx, claim.Rest{Session: s.ID, Epoch: s.Epoch, Alloc: task.AllocID, Try: 1, Asleep: true}, 0)
	if errors.Is(err, driver.ErrFenced) {
		return nil // a front-end has given it up already
	}
	return err
}

// snapshotted is whose snapshots a task's are.
func snapshotted(ctx context.Context, task *driver.Task) (snapshot.Session, error) {
	key, err := task.Rests.Key(ctx)
	if err != nil {
		return snapshot.Session{}, err
	}
	return snapshot.Session{ID: task.Session.ID, Key: key, Expires: task.Session.ExpiresAt}, nil
}

// goOn has the workspace of a recovered session be served, in the background: it may be
// already, or whoever needs some of it waits meanwhile.
func (i *instance) goOn() {
	w, notes := i.box.Workspace(), i.box.Notes()
	if _, err := os.Stat(filepath.Join(notes, arrivedFile)); errors.Is(err, fs.ErrNotExist) {
		w.Supply(restored{i.agent, nil})
		return
	}
	i.agent.tasks.Go(func() {
		for {
			ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
			source, err := i.restoreOn(ctx, notes)
			cancel()
			if err == nil {
				w.Supply(source)
				return
			}
			i.agent.log.Warn("cannot go on with the restore of a session yet", "session", i.task.Session.ID, "error", err)
			select {
			case <-time.After(reopenPause):
			case <-i.closed:
				return
			case <-i.box.Done():
				return
			}
		}
	})
}

func (i *instance) restoreOn(ctx context.Context, notes string) (workspace.Source, error) {
	b, err := os.ReadFile(filepath.Join(notes, wokenFile))
	if err != nil {
		return nil, fmt.Errorf("read what the session wakes from: %w", err)
	}
	var p snapshot.Pointer
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("read what the session wakes from: %w", err)
	}
	who, err := snapshotted(ctx, i.task)
	if err != nil {
		return nil, err
	}
	return i.agent.source(who, p, notes), nil
}
