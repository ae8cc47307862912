// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package snapshot

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
)

const (
	// chunkSize is the unit of change. Measured on 3,300 files, one in a hundred of
	// which then had a line appended: 16 KB would store 0.11 MB, 32 KB 0.18, 64 KB
	// 0.30, 256 KB 0.82, of 8 MB for all; each halving doubles the manifest.
	chunkSize = 32 << 10
	// frameSize is the unit of compression, before it: larger ones gain little.
	frameSize = 1 << 20
	// objectSize is what is stored, and fetched, at once.
	objectSize = 4 << 20
	// maxObject is more than an object can have: the last frame makes it longer
	// than objectSize, and need not be compressible.
	maxObject = objectSize + 2*frameSize
	// maxManifest is for images of some 400 GB.
	maxManifest = 256 << 20
)

const chunksPerFrame = frameSize / chunkSize

// object is a stored one.
type object struct {
	name    string // <generation>/<number>
	size    int
	expires int64 // Unix time, in seconds; not in the manifest
	stored  bool  // not false for those in a manifest
}

// frame is some chunks in an object.
type frame struct {
	object       *object
	offset, size int // in the object
	nonce        nonce
	count        int // of chunks that were put in
}

// chunk is where one is, and what it is.
type chunk struct {
	print fingerprint
	frame *frame
	pos   int // in the frame, counted in chunks
}

// table has the chunks of an image by their number in it. What is missing is
// zero.
type table map[uint32]chunk

// manifest lists what a snapshot consists of.
type manifest struct {
	size   int64 // of the image
	chunks table
	// early are the chunks that the last life of the session waited for when it
	// began, mostEarly at most.
	early []uint32
}

// mostEarly is some four times what the first execution in a workspace needs: it
// waited for 8 to 17 chunks.
const mostEarly = 64

// numbered is a chunk with its number in the image.
type numbered struct {
	index uint32
	chunk
}

// sorted lists chunks as they are stored.
func (t table) sorted() []numbered {
	list := make([]numbered, 0, len(t))
	for i, c := range t {
		list = append(list, numbered{i, c})
	}
	slices.SortFunc(list, func(a, b numbered) int {
		return cmp.Or(
			cmp.Compare(a.frame.object.name, b.frame.object.name),
			cmp.Compare(a.frame.offset, b.frame.offset),
			cmp.Compare(a.pos, b.pos))
	})
	return list
}

// objects lists the objects that have any of the chunks.
func (t table) objects() []*object {
	var list []*object
	seen := map[*object]bool{}
	for _, c := range t {
		if o := c.frame.object; !seen[o] {
			seen[o] = true
			list = append(list, o)
		}
	}
	return list
}

// magic begins a manifest, and tells the version of its form. Version 1 had no early
// chunks.
const (
	magic  = "buntime snapshot 2\n"
	magic1 = "buntime snapshot 1\n"
)

// encode returns the manifest's bytes: magic, the image's size, the number of
// chunks, and the chunks sorted; each says whether its object and frame are those
// of the one before and, if not, what they are. Then the number of early chunks, and
// theirs.
func (m manifest) encode() []byte {
	b := []byte(magic)
	b = binary.AppendUvarint(b, uint64(m.size))
	list := m.chunks.sorted()
	b = binary.AppendUvarint(b, uint64(len(list)))
	var last numbered
	for _, c := range list {
		switch {
		case last.frame != nil && c.frame == last.frame:
			b = append(b, sameFrame)
		case last.frame != nil && c.frame.object == last.frame.object:
			b = appendFrame(append(b, newFrame), c.frame)
		default:
			b = append(b, newObject)
			b = binary.AppendUvarint(b, uint64(len(c.frame.object.name)))
			b = append(b, c.frame.object.name...)
			b = binary.AppendUvarint(b, uint64(c.frame.object.size))
			b = appendFrame(b, c.frame)
		}
		b = append(b, byte(c.pos))
		b = binary.AppendUvarint(b, uint64(c.index))
		b = append(b, c.print[:]...)
		last = c
	}
	b = binary.AppendUvarint(b, uint64(len(m.early)))
	for _, n := range m.early {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return b
}

// What is new with a chunk.
const (
	sameFrame byte = iota
	newFrame
	newObject
)

func appendFrame(b []byte, f *frame) []byte {
	b = binary.AppendUvarint(b, uint64(f.offset))
	b = binary.AppendUvarint(b, uint64(f.size))
	b = append(b, f.nonce[:]...)
	return append(b, byte(f.count))
}

// decodeManifest is the reverse of encode. What it returns without an error is
// consistent in itself: no frame lies outside its object, no chunk outside its
// frame or the image, and none is there twice.
func decodeManifest(b []byte) (manifest, error) {
	d := decoder{rest: b}
	version := string(d.bytes(len(magic)))
	if version != magic && version != magic1 {
		return manifest{}, errors.New("decode manifest: begins with something else")
	}
	m := manifest{size: int64(d.uint(1 << 50)), chunks: table{}}
	n := d.uint(uint64(len(b)) / 18) // no chunk takes less
	chunks := uint64(m.size+chunkSize-1) / chunkSize
	var f *frame
	for range n {
		f = d.frame(f)
		pos, index := int(d.byte()), uint32(d.uint(1<<32-1))
		print := fingerprint(d.bytes(len(fingerprint{})))
		if d.err == nil && (pos >= f.count || uint64(index) >= chunks) {
			d.fail("chunk %d at %d of a frame of %d, image of %d", index, pos, f.count, chunks)
		}
		if _, twice := m.chunks[index]; twice {
			d.fail("chunk %d is there twice", index)
		}
		if d.err != nil {
			return manifest{}, d.err
		}
		m.chunks[index] = chunk{print, f, pos}
	}
	if version == magic {
		for range d.uint(mostEarly) {
			m.early = append(m.early, uint32(d.uint(1<<32-1)))
		}
	}
	if d.err == nil && len(d.rest) > 0 {
		d.fail("%d bytes follow it", len(d.rest))
	}
	return m, d.err
}

// decoder takes a manifest apart. After the first error all is zero.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("decode manifest: "+format, args...)
		d.rest = nil
	}
}

// bytes takes n bytes. They are there also after an error.
func (d *decoder) bytes(n int) []byte {
	if len(d.rest) < n {
		d.fail("it ends too early")
		return make([]byte, n)
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte { return d.bytes(1)[0] }

func (d *decoder) uint(most uint64) uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > most || n > 1 && d.rest[n-1] == 0 { // the last: not the shortest form
		d.fail("number out of range")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

var objectForm = regexp.MustCompile(`^[0-9a-f]{16}\.[0-9a-f]{8}\.[0-9a-f]{8}/[0-9]{5,9}$`)

// frame returns the frame of the next chunk, that of the last one being last.
func (d *decoder) frame(last *frame) *frame {
	kind := d.byte()
	if kind == sameFrame && last != nil {
		return last
	}
	f := &frame{}
	switch {
	case kind == newObject:
		f.object = &object{name: string(d.bytes(int(d.uint(100)))), stored: true}
		f.object.size = int(d.uint(maxObject))
		if d.err == nil && !objectForm.MatchString(f.object.name) {
			d.fail("%q cannot name an object", f.object.name)
		}
	case kind == newFrame && last != nil:
		f.object = last.object
	default:
		d.fail("chunk in no frame")
		f.object = &object{}
	}
	f.offset, f.size = int(d.uint(maxObject)), int(d.uint(maxObject))
	f.nonce = nonce(d.bytes(nonceSize))
	f.count = int(d.byte())
	if d.err == nil && (f.offset+f.size > f.object.size || f.size <= sealSize || f.count > chunksPerFrame) {
		d.fail("frame of %d chunks at %d+%d of an object of %d bytes", f.count, f.offset, f.size, f.object.size)
	}
	return f
}

// loadManifest fetches and verifies the manifest of a snapshot.
func (r *Repository) loadManifest(ctx context.Context, s Session, p Pointer) (manifest, error) {
	m, err := r.loadManifestOnce(ctx, s, p)
	// What is damaged on the way is whole the next time.
	for try := 1; errors.Is(err, ErrCorrupt) && try < tries; try++ {
		m, err = r.loadManifestOnce(ctx, s, p)
	}
	if err != nil {
		return manifest{}, fmt.Errorf("load manifest %s: %w", p.generation(), err)
	}
	for _, o := range m.chunks.objects() {
		o.expires = p.Expires.Unix()
	}
	r.learn(s.ID, m.early, false)
	return m, nil
}

func (r *Repository) loadManifestOnce(ctx context.Context, s Session, p Pointer) (manifest, error) {
	c, err := newCiphers(s)
	if err != nil {
		return manifest{}, err
	}
	if p.IsZero() || p.Length <= 0 || p.Length > maxManifest {
		return manifest{}, fmt.Errorf("%w: a manifest of %d bytes", ErrCorrupt, p.Length)
	}
	sealed := make([]byte, p.Length)
	if err := r.store.Get(ctx, p.manifest(s.ID), 0, sealed); err != nil {
		return manifest{}, err
	}
	digest, err := hex.DecodeString(p.Digest)
	if sum := sha256.Sum256(sealed); err != nil || !bytes.Equal(sum[:], digest) {
		return manifest{}, fmt.Errorf("%w: manifest is not the one pointed at", ErrCorrupt)
	}
	packed, err := c.openManifest(sealed, p.generation())
	if err != nil {
		return manifest{}, fmt.Errorf("%w: open manifest: %w", ErrCorrupt, err)
	}
	b, err := r.decoder.DecodeAll(packed, nil)
	if err != nil {
		return manifest{}, fmt.Errorf("%w: decompress manifest: %w", ErrCorrupt, err)
	}
	m, err := decodeManifest(b)
	if err == nil && m.size != p.Size {
		err = fmt.Errorf("image of %d bytes, not of %d", m.size, p.Size)
	}
	if err != nil {
		return manifest{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return m, nil
}
