// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package snapshot keeps sessions' workspaces in an object store: the whole of
// one the first time, afterwards what has changed.
//
// A workspace is an image file, and a snapshot is of its blocks rather than of
// its files. So everything that the file system knows comes back (modes, times to
// the nanosecond, links, holes, extended attributes, any name), nothing has to
// walk a tree that hostile code has made, and 100,000 small files cost what their
// bytes cost. docs/performance.md has what it was measured against.
//
// # How it is stored
//
// The image is cut into chunks of 32 KB. Those that are holes or zero are not
// stored. A manifest lists all others with a fingerprint of each; the next
// snapshot stores the chunks whose fingerprint is another. Changed chunks, up to
// 1 MB of them, are compressed and sealed together as a frame, and frames are put
// into objects of some 4 MB. Where little of an object is still needed, or there
// are many small ones, the next snapshot stores what is needed of them anew.
//
// An object's name is
//
//	<session>/<epoch>.<serial>.<attempt>/<number>
//
// and the manifest is that of the name "manifest". The attempt is random, so no
// writer, however late, can replace what another has written. A snapshot exists
// once the caller has put its Pointer into the session's record, on condition of
// the epoch; what no record points at is removed by Prune, by Remove, or by the
// store when the session's time is over.
//
// # Trust
//
// The store is not trusted with anything but keeping bytes. A frame is sealed by
// AES-256-GCM with a key of the session; the nonce it opens with stands in the
// manifest, so that it cannot be replaced by another frame, or an older one, of
// the same session. The manifest is sealed as well, and its SHA-256 stands in the
// pointer. A restored image is therefore one that this node or another has read
// from below a mounted file system: the kernel of a node has written it, as the
// code in a session cannot write to the device. It is mounted on no other word.
//
// Without the key, which the caller keeps and destroys with the session, the
// objects are noise.
package snapshot
