// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// TestFrames: the last frame comes between two others, however their bytes come.
func TestFrames(t *testing.T) {
	var stream []byte
	ends := map[int]bool{0: true} // where a frame has ended
	for _, size := range []int{0, 5, 125, 126, 300, 65535, 65536, 70000, 1} {
		frame := []byte{0x82}
		switch {
		case size < 126:
			frame = append(frame, byte(size))
		case size < 65536:
			frame = append(frame, 126, byte(size>>8), byte(size))
		default:
			frame = append(frame, 127, 0, 0, 0, 0, 0, byte(size>>16), byte(size>>8), byte(size))
		}
		stream = append(append(stream, frame...), bytes.Repeat([]byte{0x88}, size)...)
		ends[len(stream)] = true
	}
	for _, piece := range []int{1, 2, 3, 1000, 32 << 10, len(stream)} {
		for _, after := range []int{0, 1, 2, 8, 200, 66000, 140000} { // bytes, at least, until the end is told
			outside, client := net.Pipe()
			got := make(chan []byte, 1)
			go func() {
				b, _ := io.ReadAll(client)
				got <- b
			}()
			f := &frames{to: outside}
			told, sent := false, 0
			for sent < len(stream) {
				if sent >= after && !told {
					told = true
					f.finish([]byte("last"))
				}
				n := min(piece, len(stream)-sent)
				if _, err := f.Write(stream[sent : sent+n]); err != nil {
					if !errors.Is(err, errLeaving) {
						t.Fatal(err)
					}
					break
				}
				sent += n
			}
			if !told {
				f.finish([]byte("last"))
			}
			outside.Close()
			b, ok := bytes.CutSuffix(<-got, []byte("last"))
			if !ok || !ends[len(b)] || !bytes.HasPrefix(stream, b) {
				t.Errorf("pieces of %d, told after %d: %d bytes before the last frame, which is there: %v", piece, after, len(b), ok)
			}
		}
	}
}
