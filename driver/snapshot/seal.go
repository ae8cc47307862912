// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package snapshot

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
)

// Key seals the data of one session. It is text in JSON.
type Key [32]byte

// NewKey makes a key.
func NewKey() Key {
	var k Key
	rand.Read(k[:]) // never fails
	return k
}

// MarshalText implements encoding.TextMarshaler.
func (k Key) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, k[:]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Key) UnmarshalText(text []byte) error {
	b, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil || len(b) != len(k) {
		return errors.New("decode key: not 32 bytes in base64")
	}
	copy(k[:], b)
	return nil
}

// String keeps the key out of logs.
func (k Key) String() string { return "key" }

const (
	nonceSize = 12
	sealSize  = 16 // bytes by which sealing makes data longer
)

type (
	nonce       [nonceSize]byte
	fingerprint [16]byte
)

// ciphers are those of one session, each with a key derived from the session's.
type ciphers struct {
	session                     string
	frames, manifests, printing cipher.AEAD
}

func newCiphers(s Session) (*ciphers, error) {
	if s.Key == (Key{}) {
		return nil, errors.New("session has no key")
	}
	c := &ciphers{session: s.ID}
	for use, to := range map[string]*cipher.AEAD{"frame": &c.frames, "manifest": &c.manifests, "fingerprint": &c.printing} {
		key, err := hkdf.Key(sha256.New, s.Key[:], nil, "buntime snapshot "+use, 32)
		if err != nil {
			return nil, fmt.Errorf("derive key: %w", err)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("make cipher: %w", err)
		}
		if *to, err = cipher.NewGCM(block); err != nil {
			return nil, fmt.Errorf("make cipher: %w", err)
		}
	}
	return c, nil
}

func newNonce() (n nonce) {
	rand.Read(n[:]) // never fails
	return n
}

// sealFrame appends data, sealed, to dst. What is random is the nonce: of 2^32
// frames with one key, which are 4 million GB, two have the same with a
// probability of 2^-33.
func (c *ciphers) sealFrame(dst, data []byte) ([]byte, nonce) {
	n := newNonce()
	return c.frames.Seal(dst, n[:], data, []byte(c.session)), n
}

// openFrame opens a frame in its place.
func (c *ciphers) openFrame(sealed []byte, n nonce) ([]byte, error) {
	return c.frames.Open(sealed[:0], n[:], sealed, []byte(c.session))
}

// sealManifest seals a manifest for the place that it is to be at.
func (c *ciphers) sealManifest(data []byte, at generation) []byte {
	n := newNonce()
	return c.manifests.Seal(n[:], n[:], data, c.place(at))
}

func (c *ciphers) openManifest(sealed []byte, at generation) ([]byte, error) {
	if len(sealed) < nonceSize+sealSize {
		return nil, errors.New("too short")
	}
	return c.manifests.Open(nil, sealed[:nonceSize], sealed[nonceSize:], c.place(at))
}

func (c *ciphers) place(at generation) []byte { return []byte(c.session + "/" + at.String()) }

// fingerprint is the same for the same chunk in the same session and, as good as
// ever, another for another chunk. It is the authentication code of GCM: a hash
// with a secret key, some three times as fast as SHA-256. That its nonce is
// always the same would give the secret away to those who see results; nobody
// does, they stand in sealed manifests only.
func (c *ciphers) fingerprint(chunk []byte) (f fingerprint) {
	var always nonce
	c.printing.Seal(f[:0], always[:], nil, chunk)
	return f
}
