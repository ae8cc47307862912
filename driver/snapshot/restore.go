// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

const (
	// tries of fetching what turns out to be damaged.
	tries = 3
	// gap is how much is fetched in vain rather than with another request.
	gap = 128 << 10
)

// Restore writes the image of a snapshot to a new file at path, complete and
// verified, or returns an error and leaves none: ErrCorrupt or store.ErrNotExist
// if there is no sense in trying again.
func (r *Repository) Restore(ctx context.Context, s Session, p Pointer, path string) error {
	if err := r.restore(ctx, s, p, path); err != nil {
		return fmt.Errorf("restore session %s: %w", s.ID, err)
	}
	return nil
}

func (r *Repository) restore(ctx context.Context, s Session, p Pointer, path string) (err error) {
	if err := checkID(s.ID); err != nil {
		return err
	}
	if err := take(ctx, r.restores); err != nil {
		return fmt.Errorf("wait for other restores: %w", err)
	}
	defer func() { <-r.restores }()
	c, err := newCiphers(s)
	if err != nil {
		return err
	}
	m, err := r.loadManifest(ctx, s, p)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("create image: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(path)
		}
	}()
	if err := f.Truncate(m.size); err != nil {
		return fmt.Errorf("create image: %w", err)
	}
	job := restore{r: r, ciphers: c, image: f, size: m.size}
	if err := job.run(ctx, m.chunks.pieces()); err != nil {
		return err
	}
	r.remember(s.ID, state{p.Digest, m.chunks, true})
	return nil
}

// piece is a part of an object that is fetched at once.
type piece struct {
	object       *object
	offset, size int
	frames       []wanted
}

// wanted is a frame, and those of its chunks that are needed.
type wanted struct {
	*frame
	chunks []numbered
}

// pieces lists what has to be fetched for the chunks.
func (t table) pieces() []piece {
	var list []piece
	var last *frame
	for _, c := range t.sorted() {
		if c.frame == last {
			p := &list[len(list)-1]
			w := &p.frames[len(p.frames)-1]
			w.chunks = append(w.chunks, c)
			continue
		}
		f := c.frame
		if last == nil || last.object != f.object || list[len(list)-1].offset+list[len(list)-1].size+gap < f.offset {
			list = append(list, piece{object: f.object, offset: f.offset})
		}
		p := &list[len(list)-1]
		p.size = f.offset + f.size - p.offset
		p.frames = append(p.frames, wanted{f, []numbered{c}})
		last = f
	}
	return list
}

// restore is one that is under way.
type restore struct {
	r       *Repository
	ciphers *ciphers
	image   *os.File
	size    int64
}

func (j *restore) run(ctx context.Context, pieces []piece) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(j.r.config.Workers, len(pieces)) {
		g.Go(func() error {
			b := buffers.Get().(*buffer)
			defer buffers.Put(b)
			for n := next.Add(1) - 1; n < int64(len(pieces)); n = next.Add(1) - 1 {
				if err := j.piece(ctx, pieces[n], b.sealed[:], b.plain[:]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// buffer is what a worker needs.
type buffer struct {
	sealed [maxObject]byte
	plain  [frameSize]byte
}

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// piece fetches a piece and writes its chunks into the image.
func (j *restore) piece(ctx context.Context, p piece, sealed, plain []byte) error {
	name := j.ciphers.session + "/" + p.object.name
	sealed = sealed[:p.size]
	var err error
	for range tries {
		if err := j.r.store.Get(ctx, name, int64(p.offset), sealed); err != nil {
			return err
		}
		// It is as well to do again what was done before the damage was met.
		if err = j.frames(p, sealed, plain); !errors.Is(err, ErrCorrupt) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("object %s: %w", name, err)
	}
	return nil
}

func (j *restore) frames(p piece, sealed, plain []byte) error {
	for _, w := range p.frames {
		packed, err := j.ciphers.openFrame(sealed[w.offset-p.offset:][:w.size:w.size], w.nonce)
		if err != nil {
			return fmt.Errorf("%w: open frame at %d: %w", ErrCorrupt, w.offset, err)
		}
		data, err := j.r.decoder.DecodeAll(packed, plain[:0])
		if err != nil {
			return fmt.Errorf("%w: decompress frame at %d: %w", ErrCorrupt, w.offset, err)
		}
		if len(data) != w.count*chunkSize {
			return fmt.Errorf("%w: frame at %d has %d bytes, not %d chunks", ErrCorrupt, w.offset, len(data), w.count)
		}
		if err := j.write(w.chunks, data); err != nil {
			return err
		}
	}
	return nil
}

// write writes chunks of a frame's data, as many at once as are neighbours both
// in the frame and in the image.
func (j *restore) write(chunks []numbered, data []byte) error {
	for len(chunks) > 0 {
		n := 1
		for n < len(chunks) && chunks[n].index == chunks[0].index+uint32(n) && chunks[n].pos == chunks[0].pos+n {
			n++
		}
		at := int64(chunks[0].index) * chunkSize
		b := data[chunks[0].pos*chunkSize:][:n*chunkSize]
		b = b[:min(int64(len(b)), j.size-at)] // the image may end within a chunk
		if _, err := j.image.WriteAt(b, at); err != nil {
			return fmt.Errorf("write image: %w", err)
		}
		chunks = chunks[n:]
	}
	return nil
}
