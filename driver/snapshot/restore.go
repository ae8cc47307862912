// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
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
	job, m, err := r.prepare(ctx, s, p)
	if err != nil {
		return err
	}
	if job.image, err = create(path, m.size); err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, job.image.Close()); err != nil {
			os.Remove(path)
		}
	}()
	if err := job.all(ctx, pieces(m.chunks.wanted(), maxObject)); err != nil {
		return err
	}
	r.remember(s.ID, state{p.Digest, m.chunks, true})
	return nil
}

// prepare loads what a restore has to know. Its image is missing yet.
func (r *Repository) prepare(ctx context.Context, s Session, p Pointer) (*restore, manifest, error) {
	c, err := newCiphers(s)
	if err != nil {
		return nil, manifest{}, err
	}
	m, err := r.loadManifest(ctx, s, p)
	if err != nil {
		return nil, manifest{}, err
	}
	return &restore{r: r, ciphers: c, size: m.size}, m, nil
}

// create makes an image that is zero.
func create(path string, size int64) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create image: %w", err)
	}
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(fmt.Errorf("create image: %w", err), f.Close(), os.Remove(path))
	}
	return f, nil
}

// wanted is a frame, and those of its chunks that are needed.
type wanted struct {
	*frame
	number int // of it among all that are wanted
	chunks []numbered
}

// wanted lists the frames as they are stored, with their chunks.
func (t table) wanted() []*wanted {
	var list []*wanted
	for _, c := range t.sorted() {
		if len(list) == 0 || list[len(list)-1].frame != c.frame {
			list = append(list, &wanted{frame: c.frame, number: len(list)})
		}
		w := list[len(list)-1]
		w.chunks = append(w.chunks, c)
	}
	return list
}

// piece is a part of an object that is fetched at once.
type piece struct {
	object       *object
	offset, size int
	frames       []*wanted
}

func (p *piece) end() int { return p.offset + p.size }

// first is the first chunk of the image that the piece has.
func (p *piece) first() uint32 {
	return slices.MinFunc(p.frames, func(a, b *wanted) int { return cmp.Compare(a.chunks[0].index, b.chunks[0].index) }).chunks[0].index
}

// pieces lists what has to be fetched for frames, which are in the order that they
// are stored in: pieces of about size bytes at most, those first that have the
// beginning of the image.
func pieces(frames []*wanted, size int) []piece {
	var list []piece
	for _, f := range frames {
		if n := len(list); n == 0 || list[n-1].object != f.object || list[n-1].size >= size || list[n-1].end()+gap < f.offset {
			list = append(list, piece{object: f.object, offset: f.offset})
		}
		p := &list[len(list)-1]
		p.size = f.offset + f.size - p.offset
		p.frames = append(p.frames, f)
	}
	slices.SortStableFunc(list, func(a, b piece) int { return cmp.Compare(a.first(), b.first()) })
	return list
}

// restore is one that is under way.
type restore struct {
	r       *Repository
	ciphers *ciphers
	image   *os.File
	size    int64
	// written, unless nil, is told of each frame whose chunks are in the image.
	written func(*wanted) error
}

// all fetches pieces.
func (j *restore) all(ctx context.Context, pieces []piece) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(j.r.config.Workers, len(pieces)) {
		g.Go(func() error {
			for n := next.Add(1) - 1; n < int64(len(pieces)); n = next.Add(1) - 1 {
				if err := j.piece(ctx, pieces[n]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// buffer is what it takes to fetch a piece.
type buffer struct {
	sealed [maxObject]byte
	plain  [frameSize]byte
}

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// piece fetches a piece and writes its chunks into the image.
func (j *restore) piece(ctx context.Context, p piece) error {
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	name := j.ciphers.session + "/" + p.object.name
	sealed := b.sealed[:p.size]
	var err error
	done := 0 // frames, which are in use by now, and may have been written to
	for range tries {
		if err := j.r.store.Get(ctx, name, int64(p.offset), sealed); err != nil {
			return err
		}
		var n int
		n, err = j.frames(p, done, sealed, b.plain[:])
		if done += n; !errors.Is(err, ErrCorrupt) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("object %s: %w", name, err)
	}
	return nil
}

// frames writes the chunks of a piece's frames into the image but for the first skip,
// and returns how many it has written.
func (j *restore) frames(p piece, skip int, sealed, plain []byte) (done int, err error) {
	for _, w := range p.frames[skip:] {
		packed, err := j.ciphers.openFrame(sealed[w.offset-p.offset:][:w.size:w.size], w.nonce)
		if err != nil {
			return done, fmt.Errorf("%w: open frame at %d: %w", ErrCorrupt, w.offset, err)
		}
		data, err := j.r.decoder.DecodeAll(packed, plain[:0])
		if err != nil {
			return done, fmt.Errorf("%w: decompress frame at %d: %w", ErrCorrupt, w.offset, err)
		}
		if len(data) != w.count*chunkSize {
			return done, fmt.Errorf("%w: frame at %d has %d bytes, not %d chunks", ErrCorrupt, w.offset, len(data), w.count)
		}
		err = j.write(w.chunks, data)
		if err == nil && j.written != nil {
			err = j.written(w)
		}
		if err != nil {
			return done, err
		}
		done++
	}
	return done, nil
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
