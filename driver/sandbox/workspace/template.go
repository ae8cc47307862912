// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package workspace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox/loop"
)

// template is a fresh file system as the few pieces of its image that are not
// zero: about 150 KB for one of 1 GB.
type template struct {
	size   int64 // of the image
	pieces []piece
}

type piece struct {
	offset int64
	data   []byte
}

// loopMode is how images are bound.
var loopMode = loop.Mode{BlockSize: blockSize}

// restoredMode is how those are that have just been restored.
var restoredMode = loop.Mode{BlockSize: blockSize, Buffered: true}

const (
	blockSize = 4096

	// bytesPerInode of 4096 lets small files fill the disk before they run out
	// of inodes. Their tables take 1/16 of the image, which is made larger by as
	// much, and cost the node nothing before they are used.
	bytesPerInode = 4096
	inodeSize     = 256
	// reserved is what ext4 keeps to itself for metadata, however small the
	// number of blocks reserved for root: 4,096 blocks, or 2 % if that is less.
	reserved = 4096 * blockSize
)

// imageSize is how large an image has to be for size bytes of files.
func imageSize(size int64) int64 {
	n := size + min(size/50, reserved)
	n += n / (bytesPerInode/inodeSize - 1) // inode tables
	n += n/4096 + 1<<20                    // bitmaps and group descriptors
	return (n + blockSize - 1) / blockSize * blockSize
}

// features are named one by one so that a node's mke2fs.conf has no say.
// There is no journal: after a crash of the node, workspaces come from their
// snapshots.
const features = "none,dir_index,dir_nlink,extent,extra_isize,filetype,flex_bg,huge_file,large_file,sparse_super,uninit_bg"

// makeTemplate runs mkfs, the path of mkfs.ext4, on a file in dir.
func makeTemplate(ctx context.Context, mkfs, dir string, size int64) (*template, error) {
	f, err := os.CreateTemp(dir, "template-")
	if err != nil {
		return nil, fmt.Errorf("create template: %w", err)
	}
	defer f.Close()
	defer os.Remove(f.Name())
	t := &template{size: imageSize(size)}
	if err := f.Truncate(t.size); err != nil {
		return nil, fmt.Errorf("create template: %w", err)
	}
	cmd := exec.CommandContext(ctx, mkfs, "-q", "-F", "-m", "0",
		"-b", strconv.Itoa(blockSize), "-i", strconv.Itoa(bytesPerInode), "-I", strconv.Itoa(inodeSize),
		"-O", features, "-e", "remount-ro",
		"-E", fmt.Sprintf("nodiscard,root_owner=%d:%d", owner, owner), f.Name())
	cmd.Env = []string{"MKE2FS_CONFIG=/dev/null"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("run mkfs.ext4: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if err := removeLostFound(ctx, f); err != nil {
		return nil, fmt.Errorf("remove lost+found from template: %w", err)
	}
	if t.pieces, err = readPieces(f); err != nil {
		return nil, fmt.Errorf("read template: %w", err)
	}
	return t, nil
}

// removeLostFound removes a directory that mkfs.ext4 always makes, here and not
// in each workspace: it takes 0.6 ms.
func removeLostFound(ctx context.Context, image *os.File) error {
	id, err := loop.IdentityOf(image)
	if err != nil {
		return err
	}
	dev, err := loop.Attach(image, loopMode)
	if err != nil {
		return err
	}
	mnt, err := mount(dev.Name())
	if err != nil {
		dev.Close()
		return err
	}
	err = unix.Unlinkat(int(mnt.Fd()), "lost+found", unix.AT_REMOVEDIR)
	if err := errors.Join(err, mnt.Close(), dev.Close()); err != nil {
		return err
	}
	return untilUnbound(ctx, dev.Name(), id)
}

// readPieces reads what is not a hole in f.
func readPieces(f *os.File) ([]piece, error) {
	var pieces []piece
	for end := int64(0); ; {
		begin, err := f.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return pieces, nil
		}
		if err != nil {
			return nil, err
		}
		if end, err = f.Seek(begin, unix.SEEK_HOLE); err != nil {
			return nil, err
		}
		p := piece{offset: begin, data: make([]byte, end-begin)}
		if _, err := f.ReadAt(p.data, begin); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		pieces = append(pieces, p)
	}
}

// create makes an image at path, which must not exist.
func (t *template) create(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("create image: %w", err)
	}
	defer f.Close()
	err = f.Truncate(t.size)
	for _, p := range t.pieces {
		if err == nil {
			_, err = f.WriteAt(p.data, p.offset)
		}
	}
	if err != nil {
		_ = os.Remove(path)
		return fmt.Errorf("create image: %w", err)
	}
	return nil
}
