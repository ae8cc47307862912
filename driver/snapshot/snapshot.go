// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package snapshot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/buntime/buntime/driver/snapshot/store"
)

var (
	// ErrCorrupt is returned when what is stored is not what was: damaged,
	// exchanged, or sealed with another key.
	ErrCorrupt = errors.New("snapshot is corrupt")
	// ErrBusy is returned when a snapshot of the same session is being taken.
	ErrBusy = errors.New("session is being snapshotted already")
)

// Config of a Repository. The zero value is good.
type Config struct {
	// Workers is how many work on one snapshot or restore, each with some 10 MB of
	// memory: 4 if it is 0.
	Workers int
	// Snapshots is how many are taken at the same time, and Restores how many are
	// restored; others wait. 4 and 8 if they are 0.
	Snapshots, Restores int
}

// Repository takes and restores snapshots. Its methods may be called from any
// goroutine.
type Repository struct {
	store   store.Store
	config  Config
	encoder *zstd.Encoder
	decoder *zstd.Decoder

	snapshots, restores chan struct{} // have an element for each that runs

	mu    sync.Mutex
	busy  map[string]bool     // sessions that are being snapshotted
	known map[string]state    // by session
	early map[string][]uint32 // the same: see manifest
}

// state is what is known of a session's snapshots without asking the store.
type state struct {
	base   string // digest of the pointer that it is about
	chunks table
	// exact means that chunks are those of base. After a failure they are not: then
	// those that were stored since are instead of those that they are a change of.
	exact bool
}

// New returns a repository in s, which the caller closes after it.
func New(s store.Store, config Config) (*Repository, error) {
	for _, d := range []struct {
		n   *int
		def int
	}{{&config.Workers, 4}, {&config.Snapshots, 4}, {&config.Restores, 8}} {
		if *d.n == 0 {
			*d.n = d.def
		}
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(config.Workers*config.Snapshots),
		zstd.WithWindowSize(frameSize), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("make compressor: %w", err)
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(config.Workers*config.Restores),
		zstd.WithDecoderMaxMemory(maxManifest), zstd.IgnoreChecksum(true))
	if err != nil {
		return nil, fmt.Errorf("make decompressor: %w", err)
	}
	return &Repository{
		store: s, config: config, encoder: encoder, decoder: decoder,
		snapshots: make(chan struct{}, config.Snapshots), restores: make(chan struct{}, config.Restores),
		busy: map[string]bool{}, known: map[string]state{}, early: map[string][]uint32{},
	}, nil
}

// Session is whose data it is.
type Session struct {
	// ID is the folder in the store.
	ID string
	// Key seals the session's data; see NewKey.
	Key Key
	// Expires is when the session ends and the store may remove what it has of it.
	Expires time.Time
}

// validID also keeps Remove from removing anything but one session.
var validID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func checkID(id string) error {
	if !validID.MatchString(id) {
		return fmt.Errorf("%q cannot name a session", id)
	}
	return nil
}

// Pointer is where a snapshot is, and what it has to be. It is to be kept where
// nobody can write who may not, in the session's record.
type Pointer struct {
	// Epoch and Serial order the snapshots of a session: the life in which it was
	// taken, and a number that goes up with each. Attempt tells those apart that
	// were begun at the same place.
	Epoch   uint64 `json:"epoch"`
	Serial  uint32 `json:"serial"`
	Attempt string `json:"attempt"`
	// Digest is the SHA-256 of the manifest as it is stored, in hex; Length is that
	// of the same in bytes.
	Digest string `json:"digest"`
	Length int64  `json:"length"`
	// Size is that of the image, in bytes, and Stored what the store holds for this
	// snapshot, those of earlier ones that it needs included.
	Size   int64 `json:"size"`
	Stored int64 `json:"stored"`
	// Taken is the moment that the snapshot shows.
	Taken time.Time `json:"taken"`
	// Expires is when the store removes it.
	Expires time.Time `json:"expires"`
}

// IsZero tells whether it points at nothing.
func (p Pointer) IsZero() bool { return p.Digest == "" }

func (p Pointer) generation() generation { return generation{p.Epoch, p.Serial, p.Attempt} }

func (p Pointer) manifest(session string) string {
	return session + "/" + p.generation().String() + "/manifest"
}

// Live is a file system in the image that is mounted and perhaps written to:
// *workspace.Workspace is one.
type Live interface {
	// Sync writes to the image what was written to the file system.
	Sync() error
	// Trim makes holes in the image where the file system is free.
	Trim() (uint64, error)
	// Freeze has it written completely and holds up those who write until Thaw.
	Freeze() error
	Thaw() error
}

// Request says what to take a snapshot of.
type Request struct {
	Session Session
	// Epoch is the session's life in which it is taken.
	Epoch uint64
	// Last points at the snapshot before, also one of an earlier epoch; zero if
	// there is none.
	Last Pointer
	// Image is the path of the image. Nobody may write to it, unless Live is set.
	Image string
	// Live, if set, is frozen for as long as it takes to read the image once more
	// after all of it has been stored: a consistent snapshot of a session that
	// goes on.
	Live Live
}

// Stats is what a snapshot took.
type Stats struct {
	Read     int64         // bytes of the image that were read
	Changed  int64         // bytes that were stored anew, before compression
	Uploaded int64         // bytes, the manifest's included
	Objects  int           // that were put, the manifest included
	Paused   time.Duration // that Live was frozen for
}

// Snapshot stores what has changed since the last one. Only when the caller has
// the pointer that it returns in the session's record is there a new snapshot;
// the last one stays as it is until Prune. After an error Snapshot may be called
// again, and does not store again what it already has.
func (r *Repository) Snapshot(ctx context.Context, req Request) (Pointer, Stats, error) {
	p, stats, err := r.snapshot(ctx, req)
	if err != nil {
		return Pointer{}, stats, fmt.Errorf("snapshot session %s: %w", req.Session.ID, err)
	}
	return p, stats, nil
}

func (r *Repository) snapshot(ctx context.Context, req Request) (Pointer, Stats, error) {
	if err := checkID(req.Session.ID); err != nil {
		return Pointer{}, Stats{}, err
	}
	if req.Epoch < req.Last.Epoch {
		return Pointer{}, Stats{}, fmt.Errorf("epoch %d is over, the last snapshot is of epoch %d", req.Epoch, req.Last.Epoch)
	}
	release, err := r.begin(ctx, req.Session.ID)
	if err != nil {
		return Pointer{}, Stats{}, err
	}
	defer release()
	w, err := r.newWriter(ctx, req)
	if err != nil {
		return Pointer{}, Stats{}, err
	}
	defer w.close()
	if req.Live == nil {
		err = w.pass(ctx, nil)
	} else {
		err = w.passLive(ctx, req.Live)
	}
	var p Pointer
	if err == nil {
		p, err = w.finish(ctx)
	}
	if errors.Is(err, store.ErrNotExist) {
		w.chunks = table{} // the store has lost some of it: the next time stores all
	}
	if err != nil {
		r.remember(req.Session.ID, state{req.Last.Digest, w.chunks, false})
		return Pointer{}, w.stats, err
	}
	r.remember(req.Session.ID, state{p.Digest, w.chunks, true})
	return p, w.stats, nil
}

// begin waits for its turn. Its end is to be told by calling what it returns.
func (r *Repository) begin(ctx context.Context, session string) (func(), error) {
	r.mu.Lock()
	taken := r.busy[session]
	r.busy[session] = true
	r.mu.Unlock()
	if taken {
		return nil, ErrBusy
	}
	end := func() {
		r.mu.Lock()
		delete(r.busy, session)
		r.mu.Unlock()
	}
	if err := take(ctx, r.snapshots); err != nil {
		end()
		return nil, fmt.Errorf("wait for other snapshots: %w", err)
	}
	return func() { <-r.snapshots; end() }, nil
}

func take(ctx context.Context, slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// chunksOf returns the chunks of the last snapshot, and those that were stored
// after it in vain. The table is the caller's.
func (r *Repository) chunksOf(ctx context.Context, req Request) (table, error) {
	r.mu.Lock()
	known, ok := r.known[req.Session.ID]
	r.mu.Unlock()
	if ok && known.base == req.Last.Digest {
		return maps.Clone(known.chunks), nil
	}
	if req.Last.IsZero() {
		return table{}, nil
	}
	m, err := r.loadManifest(ctx, req.Session, req.Last)
	if errors.Is(err, ErrCorrupt) || errors.Is(err, store.ErrNotExist) {
		return table{}, nil // nothing of it is of use; so store all anew
	}
	if err != nil {
		return nil, err
	}
	return m.chunks, nil
}

func (r *Repository) remember(session string, s state) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[session] = s
}

// Forget lets go of what the repository remembers of a session, some 40 bytes for
// each chunk of 32 KB. It is to be called when the session has left the node.
func (r *Repository) Forget(session string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, session)
	delete(r.early, session)
}

// Learn notes what a session needs first, for its next snapshot: what a restore that was
// done elsewhere has Learnt.
func (r *Repository) Learn(session string, early []uint32) { r.learn(session, early, true) }

// learn notes what a session needs first; unless now, only where nothing is known.
func (r *Repository) learn(session string, early []uint32, now bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.early[session]; now || !known {
		r.early[session] = early
	}
}

// learnt is what was noted.
func (r *Repository) learnt(session string) []uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.early[session]
}

// generation is the part of objects' names that tells which snapshot they were
// stored for.
type generation struct {
	epoch   uint64
	serial  uint32
	attempt string // 8 hexadecimal digits
}

func newGeneration(epoch uint64, serial uint32) generation {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return generation{epoch, serial, hex.EncodeToString(b[:])}
}

func (g generation) String() string {
	return fmt.Sprintf("%016x.%08x.%s", g.epoch, g.serial, g.attempt)
}

var generationForm = regexp.MustCompile(`^([0-9a-f]{16})\.([0-9a-f]{8})\.([0-9a-f]{8})$`)

// parseGeneration is the reverse of String.
func parseGeneration(s string) (generation, error) {
	var g generation
	if !generationForm.MatchString(s) {
		return g, fmt.Errorf("%q is no generation of objects", s)
	}
	_, err := fmt.Sscanf(s, "%016x.%08x.%8s", &g.epoch, &g.serial, &g.attempt)
	return g, err
}

// after tells whether g is later than another.
func (g generation) after(other generation) bool {
	return g.epoch > other.epoch || g.epoch == other.epoch && g.serial > other.serial
}
