// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package snapshot

import (
	"bytes"
	"os/exec"
	"testing"
)

func output(name string, args ...string) (string, error) {
	out, err := exec.Command("/usr/sbin/"+name, args...).CombinedOutput()
	return string(out), err
}

// exampleManifest has two objects, three frames and six chunks.
func exampleManifest() manifest {
	g := newGeneration(3, 4)
	a := &object{name: g.String() + "/00000", size: 1000, stored: true}
	b := &object{name: g.String() + "/00001", size: 500, stored: true}
	f := []*frame{
		{object: a, offset: 0, size: 600, nonce: newNonce(), count: 3},
		{object: a, offset: 600, size: 400, nonce: newNonce(), count: 32},
		{object: b, offset: 100, size: 400, nonce: newNonce(), count: 1},
	}
	return manifest{size: 100*chunkSize + 4096, chunks: table{
		0: {fingerprint{1}, f[0], 0}, 7: {fingerprint{2}, f[0], 2}, 5: {fingerprint{3}, f[1], 31},
		6: {fingerprint{4}, f[1], 0}, 99: {fingerprint{5}, f[1], 1}, 100: {fingerprint{6}, f[2], 0},
	}}
}

func TestManifest(t *testing.T) {
	m := exampleManifest()
	b := m.encode()
	got, err := decodeManifest(b)
	if err != nil {
		t.Fatal(err)
	}
	if got.size != m.size || len(got.chunks) != len(m.chunks) || !bytes.Equal(got.encode(), b) {
		t.Errorf("decoded %+v", got)
	}
	for i, c := range m.chunks {
		g := got.chunks[i]
		if g.print != c.print || g.pos != c.pos || g.frame.nonce != c.frame.nonce || g.frame.object.name != c.frame.object.name {
			t.Errorf("chunk %d: %+v", i, g)
		}
	}
	for n := range b {
		if _, err := decodeManifest(b[:n]); err == nil {
			t.Errorf("decoded the first %d bytes", n)
		}
	}
	if _, err := decodeManifest(append(b, 0)); err == nil {
		t.Error("decoded with a byte too many")
	}
}

// FuzzManifest has the decoder neither panic nor return what is not consistent.
func FuzzManifest(f *testing.F) {
	f.Add(exampleManifest().encode())
	f.Add(manifest{size: 1 << 30}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeManifest(b)
		if err != nil {
			return
		}
		for i, c := range m.chunks {
			o := c.frame.object
			if int64(i)*chunkSize >= m.size || c.pos >= c.frame.count || c.frame.offset+c.frame.size > o.size || o.size > maxObject || !objectForm.MatchString(o.name) {
				t.Errorf("chunk %d: %+v of %+v of %+v", i, c, c.frame, o)
			}
		}
		for _, p := range pieces(m.chunks.wanted(), maxObject) {
			if p.size > maxObject || p.offset+p.size > p.object.size {
				t.Errorf("piece %+v", p)
			}
		}
		if again, err := decodeManifest(m.encode()); err != nil || len(again.chunks) != len(m.chunks) {
			t.Errorf("encoded and decoded again: %v", err)
		}
	})
}
