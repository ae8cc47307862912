// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// writer takes one snapshot.
type writer struct {
	r       *Repository
	req     Request
	ciphers *ciphers
	image   *image
	gen     generation
	taken   time.Time

	chunks  table            // the last snapshot's; after a pass, the image's
	rewrite map[*object]bool // objects whose chunks are stored anew

	number atomic.Uint32 // of the next object

	mu    sync.Mutex
	stats Stats
}

func (r *Repository) newWriter(ctx context.Context, req Request) (*writer, error) {
	c, err := newCiphers(req.Session)
	if err != nil {
		return nil, err
	}
	chunks, err := r.chunksOf(ctx, req)
	if err != nil {
		return nil, err
	}
	i, err := openImage(req.Image)
	if err != nil {
		return nil, err
	}
	return &writer{
		r: r, req: req, ciphers: c, image: i, taken: time.Now(),
		gen:    newGeneration(req.Epoch, req.Last.Serial+1),
		chunks: chunks, rewrite: chunks.wasteful(),
	}, nil
}

func (w *writer) close() { w.image.f.Close() }

const (
	// smallObject is one whose transfer takes no longer than its request, and
	// mostSmall is how many of them a snapshot may consist of.
	smallObject = 512 << 10
	mostSmall   = 16
)

// wasteful lists the objects that are better stored anew: those of which less
// than half is needed, and small ones if there are many.
func (t table) wasteful() map[*object]bool {
	needed := map[*object]int{}
	for _, c := range t {
		needed[c.frame.object] += c.frame.size / c.frame.count
	}
	list := map[*object]bool{}
	var small []*object
	for o, n := range needed {
		if n < o.size/2 {
			list[o] = true
		} else if o.size < smallObject {
			small = append(small, o)
		}
	}
	if len(small) > mostSmall {
		for _, o := range small {
			list[o] = true
		}
	}
	return list
}

// pass reads the image and stores what has changed. It calls whenRead, which may
// be nil, as soon as the image may be written to again.
func (w *writer) pass(ctx context.Context, whenRead func() error) error {
	spans, err := w.image.spans()
	if err != nil {
		return err
	}
	workers := make([]*packer, w.r.config.Workers)
	var next atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for i := range workers {
		p := &packer{w: w, chunks: table{}}
		workers[i] = p
		g.Go(func() error {
			buf := alignedBuffer(frameSize)
			for n := next.Add(1) - 1; n < int64(len(spans)); n = next.Add(1) - 1 {
				if err := p.scan(gctx, spans[n], buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = g.Wait()
	if whenRead != nil {
		err = errors.Join(err, whenRead())
	}
	if err == nil {
		err = merge(ctx, workers)
	}
	seen := table{}
	for _, p := range workers {
		w.stats.Read += p.read
		maps.Copy(seen, p.chunks)
	}
	if err != nil {
		w.keepStored(seen)
		return err
	}
	w.chunks, w.rewrite = seen, nil
	return nil
}

// keepStored has the chunks that were stored before a pass failed take the place
// of those that they are a change of.
func (w *writer) keepStored(seen table) {
	maps.DeleteFunc(seen, func(_ uint32, c chunk) bool {
		return c.frame.object == nil || !c.frame.object.stored
	})
	maps.Copy(w.chunks, seen)
}

// merge stores what the workers have left: as the first one's, so that a small
// change makes one small object and not one for each worker.
func merge(ctx context.Context, workers []*packer) error {
	first := workers[0]
	for _, p := range workers[1:] {
		for _, f := range p.packed {
			sealed := p.data[f.offset : f.offset+f.size]
			if err := first.addFrame(ctx, f, sealed); err != nil {
				return err
			}
		}
		for i, c := range p.pending {
			if err := first.add(ctx, c.index, c.print, p.raw[i*chunkSize:(i+1)*chunkSize]); err != nil {
				return err
			}
		}
		p.packed, p.pending = nil, nil
	}
	return first.flush(ctx)
}

const (
	// livePasses bounds the passes over what is being written to.
	livePasses = 3
	// fewBytes are uploaded in the time that a session may be held up for.
	fewBytes = 1 << 20
	// longestPause is how long nobody may be able to write, however slow the store is:
	// who waits for that can be neither stopped nor killed.
	longestPause = 3 * time.Second
)

// passLive takes a consistent snapshot of what is being written to: most of it
// while it is, and the difference while it is not.
func (w *writer) passLive(ctx context.Context, live Live) (err error) {
	if _, err := live.Trim(); err != nil {
		return err
	}
	if err := live.Sync(); err != nil {
		return err
	}
	// Again until little is left to store while nobody can write, or somebody writes
	// faster than that.
	for range livePasses {
		before := w.uploaded()
		if err := w.pass(ctx, nil); err != nil {
			return err
		}
		if w.uploaded()-before < fewBytes {
			break
		}
		if err := live.Sync(); err != nil {
			return err
		}
	}
	begin := time.Now()
	if err := live.Freeze(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(longestPause, func() { cancel(fmt.Errorf("the workspace stood still for %s", longestPause)) })
	w.taken = begin
	thawed := false
	thaw := func() error {
		if thawed {
			return nil
		}
		thawed = true
		limit.Stop()
		err := live.Thaw()
		w.stats.Paused = time.Since(begin)
		return err
	}
	defer func() { err = errors.Join(err, thaw()) }()
	return w.pass(ctx, thaw)
}

// finish stores the manifest and returns the pointer to it.
func (w *writer) finish(ctx context.Context) (Pointer, error) {
	if err := w.expire(ctx); err != nil {
		return Pointer{}, err
	}
	m := manifest{size: w.image.size, chunks: w.chunks, early: w.r.learnt(w.req.Session.ID)}
	sealed := w.ciphers.sealManifest(w.r.encoder.EncodeAll(m.encode(), nil), w.gen)
	if len(sealed) > maxManifest {
		return Pointer{}, fmt.Errorf("manifest of %d bytes is too large", len(sealed))
	}
	sum := sha256.Sum256(sealed)
	p := Pointer{
		Epoch: w.gen.epoch, Serial: w.gen.serial, Attempt: w.gen.attempt,
		Digest: hex.EncodeToString(sum[:]), Length: int64(len(sealed)),
		Size: w.image.size, Stored: int64(len(sealed)),
		Taken: w.taken.UTC(), Expires: w.req.Session.Expires.UTC(),
	}
	if err := w.r.store.Put(ctx, p.manifest(w.req.Session.ID), sealed, w.req.Session.Expires); err != nil {
		return Pointer{}, err
	}
	w.stats.Objects++
	w.stats.Uploaded += int64(len(sealed))
	for _, o := range w.chunks.objects() {
		p.Stored += int64(o.size)
	}
	return p, nil
}

// expire gives the objects of earlier snapshots the expiry of this one, if that
// is another.
func (w *writer) expire(ctx context.Context) error {
	var names []string
	var late []*object
	expires := w.req.Session.Expires
	for _, o := range w.chunks.objects() {
		if o.expires != expires.Unix() {
			late = append(late, o)
			names = append(names, w.req.Session.ID+"/"+o.name)
		}
	}
	err := w.r.each(ctx, names, func(ctx context.Context, name string) error {
		return w.r.store.Expire(ctx, name, expires)
	})
	if err != nil {
		return err
	}
	for _, o := range late {
		o.expires = expires.Unix()
	}
	return nil
}

// packer is one of those who work on a pass. It has a frame that is being filled
// and an object that is.
type packer struct {
	w       *writer
	chunks  table // all that it has seen
	read    int64
	pending []numbered // chunks of the next frame, without the frame
	raw     []byte     // their content
	packed  []*frame   // frames of the next object
	data    []byte     // the object's
}

// scan takes in the chunks of s.
func (p *packer) scan(ctx context.Context, s span, buf []byte) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	b, err := p.w.image.read(s, buf)
	if err != nil {
		return err
	}
	p.read += int64(len(b))
	for i := range s.count {
		data, index := b[i*chunkSize:(i+1)*chunkSize], s.first+i
		if bytes.Equal(data, zeroes[:]) {
			continue
		}
		print := p.w.ciphers.fingerprint(data)
		if old, ok := p.w.chunks[index]; ok && old.print == print && !p.w.rewrite[old.frame.object] {
			p.chunks[index] = old
			continue
		}
		if err := p.add(ctx, index, print, data); err != nil {
			return err
		}
	}
	return nil
}

// add puts a chunk into the next frame.
func (p *packer) add(ctx context.Context, index uint32, print fingerprint, data []byte) error {
	p.pending = append(p.pending, numbered{index, chunk{print: print}})
	p.raw = append(p.raw, data...)
	if len(p.pending) < chunksPerFrame {
		return nil
	}
	return p.endFrame(ctx)
}

// endFrame compresses and seals the frame and puts it into the next object.
func (p *packer) endFrame(ctx context.Context) error {
	if len(p.pending) == 0 {
		return nil
	}
	f := &frame{count: len(p.pending)}
	sealed, n := p.w.ciphers.sealFrame(nil, p.w.r.encoder.EncodeAll(p.raw, nil))
	f.nonce, f.size = n, len(sealed)
	for i, c := range p.pending {
		p.chunks[c.index] = chunk{c.print, f, i}
	}
	p.w.addStats(Stats{Changed: int64(len(p.raw))})
	p.pending, p.raw = p.pending[:0], p.raw[:0]
	return p.addFrame(ctx, f, sealed)
}

// addFrame puts a frame into the next object, and stores that when it is full.
func (p *packer) addFrame(ctx context.Context, f *frame, sealed []byte) error {
	f.offset = len(p.data)
	p.data = append(p.data, sealed...)
	p.packed = append(p.packed, f)
	if len(p.data) < objectSize {
		return nil
	}
	return p.endObject(ctx)
}

// endObject stores the object.
func (p *packer) endObject(ctx context.Context) error {
	if len(p.packed) == 0 {
		return nil
	}
	expires := p.w.req.Session.Expires
	o := &object{
		name:    fmt.Sprintf("%s/%05d", p.w.gen, p.w.number.Add(1)-1),
		size:    len(p.data),
		expires: expires.Unix(),
	}
	for _, f := range p.packed {
		f.object = o
	}
	if err := p.w.r.store.Put(ctx, p.w.req.Session.ID+"/"+o.name, p.data, expires); err != nil {
		return err
	}
	o.stored = true
	p.w.addStats(Stats{Objects: 1, Uploaded: int64(o.size)})
	p.data, p.packed = p.data[:0], p.packed[:0]
	return nil
}

func (p *packer) flush(ctx context.Context) error {
	if err := p.endFrame(ctx); err != nil {
		return err
	}
	return p.endObject(ctx)
}

func (w *writer) uploaded() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats.Uploaded
}

func (w *writer) addStats(s Stats) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Changed += s.Changed
	w.stats.Objects += s.Objects
	w.stats.Uploaded += s.Uploaded
}
