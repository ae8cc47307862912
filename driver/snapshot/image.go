// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package snapshot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// image is an image file that is read.
type image struct {
	f    *os.File
	size int64
}

// openImage opens an image past the page cache: what is read of it once need not
// push out what others read again, and the loop device writes past it as well.
func openImage(path string) (*image, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) { // a file system that cannot
		f, err = os.Open(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open image: %w", err)
	}
	return &image{f, size}, nil
}

// span is some chunks in a row.
type span struct{ first, count uint32 }

// spans lists the chunks that are not wholly in holes, at most a frame's worth in
// each span.
func (i *image) spans() ([]span, error) {
	var list []span
	var next int64 // the first byte that is not in the list
	for {
		begin, err := i.f.Seek(next, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("find data in image: %w", err)
		}
		end, err := i.f.Seek(begin, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("find hole in image: %w", err)
		}
		begin -= begin % chunkSize
		next = (end + chunkSize - 1) / chunkSize * chunkSize
		list = appendChunks(list, uint32(begin/chunkSize), uint32(next/chunkSize))
		if next >= i.size {
			return list, nil
		}
	}
}

// appendChunks appends the chunks from first to before end.
func appendChunks(list []span, first, end uint32) []span {
	if n := len(list); n > 0 && list[n-1].first+list[n-1].count == first && list[n-1].count < chunksPerFrame {
		last := &list[n-1]
		more := min(end-first, chunksPerFrame-last.count)
		last.count += more
		first += more
	}
	for first < end {
		n := min(end-first, chunksPerFrame)
		list = append(list, span{first, n})
		first += n
	}
	return list
}

// read reads the chunks of s into buf, which alignedBuffer has made, and returns
// them. Behind the end of the image is zero.
func (i *image) read(s span, buf []byte) ([]byte, error) {
	buf = buf[:int(s.count)*chunkSize]
	n, err := i.f.ReadAt(buf, int64(s.first)*chunkSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read image: %w", err)
	}
	clear(buf[n:])
	return buf, nil
}

// alignment is enough for direct I/O on every disk.
const alignment = 4096

// alignedBuffer makes a buffer for direct I/O.
func alignedBuffer(size int) []byte {
	b := make([]byte, size+alignment)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (alignment - 1)
	return b[skip : skip+size : skip+size]
}

// zeroes is a chunk without anything.
var zeroes [chunkSize]byte
