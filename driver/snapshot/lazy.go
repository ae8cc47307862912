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
	"time"

	"github.com/buntime/buntime/driver/snapshot/store"
)

// Lazy is an image that is in use while it is being restored: what somebody needs
// comes first, the rest by and by. The file has zeroes where nothing has come yet, so
// who reads or writes a part of it asks with Need before, and writes to it only then.
type Lazy struct {
	job     *restore
	session string
	known   state
	ctx     context.Context // ends with Close
	cancel  context.CancelCauseFunc
	fill    sync.WaitGroup
	// arrived has a byte for each frame, 1 once the image has it: what a later process
	// goes on from. It is removed when all is there.
	arrived *os.File

	learnt []uint32 // chunks that were needed early before
	frames []*wanted
	parts  map[uint32]*part // of chunks that are not zero

	fetches chan struct{} // has one in it for each fetch

	mu      sync.Mutex // of the parts' fields, and of what follows
	left    int        // parts that have not come
	waiting int        // who needs something now
	quiet   *sync.Cond // nobody does any more
	waited  []uint32   // chunks that somebody had to wait for
	done    chan struct{}
}

// part is a frame on its way.
type part struct {
	frame   *wanted
	there   bool
	fetched chan struct{} // not nil while somebody fetches it, closed at the end of that
}

// errClosed is what who needs something gets when it will not come any more.
var errClosed = errors.New("the restore was ended before all was there")

// RestoreLazily makes a file at path that becomes the image of a snapshot, and
// returns as soon as it can be used as Lazy says. arrived is the path of a file that
// tells how far it has come; with both files there already, it goes on with a restore
// that another process has begun. What is damaged or gone in the store shows when it
// is needed.
func (r *Repository) RestoreLazily(ctx context.Context, s Session, p Pointer, path, arrived string) (*Lazy, error) {
	l, err := r.restoreLazily(ctx, s, p, path, arrived)
	if err != nil {
		return nil, fmt.Errorf("restore session %s: %w", s.ID, err)
	}
	l.fill.Go(l.run)
	return l, nil
}

// beginning is how much of an image's beginning is wanted early of one of which
// nothing else is known: ext4 has its tables there.
const beginning = 2 << 20

// early lists the frames that somebody is going to need before others.
func (l *Lazy) early() []*wanted {
	list := l.learnt
	for n := uint32(0); len(l.learnt) == 0 && n < beginning/chunkSize; n++ {
		list = append(list, n)
	}
	var frames []*wanted
	for _, n := range list {
		if p := l.parts[n]; p != nil && !slices.Contains(frames, p.frame) {
			frames = append(frames, p.frame)
		}
	}
	return frames
}

func (r *Repository) restoreLazily(ctx context.Context, s Session, p Pointer, path, arrived string) (*Lazy, error) {
	if err := checkID(s.ID); err != nil {
		return nil, err
	}
	job, m, err := r.prepare(ctx, s, p)
	if err != nil {
		return nil, err
	}
	l := &Lazy{job: job, session: s.ID, known: state{p.Digest, m.chunks, true}, learnt: m.early, frames: m.chunks.wanted(), parts: map[uint32]*part{}, done: make(chan struct{})}
	l.quiet = sync.NewCond(&l.mu)
	l.fetches = make(chan struct{}, mostFetches)
	job.written = l.note
	if err := l.open(path, arrived, m.size); err != nil {
		return nil, err
	}
	come := make([]byte, len(l.frames))
	if _, err := l.arrived.ReadAt(come, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("read what has arrived: %w", err), l.closeFiles())
	}
	for n, f := range l.frames {
		part := &part{frame: f, there: come[n] == 1}
		if !part.there {
			l.left++
		}
		for _, c := range f.chunks {
			l.parts[c.index] = part
		}
	}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	return l, nil
}

// open makes the files, or opens those of an earlier process.
func (l *Lazy) open(path, arrived string, size int64) (err error) {
	if l.arrived, err = os.OpenFile(arrived, os.O_RDWR, 0); err == nil {
		if l.job.image, err = os.OpenFile(path, os.O_WRONLY, 0); err != nil {
			return errors.Join(err, l.arrived.Close())
		}
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if l.job.image, err = create(path, size); err != nil {
		return err
	}
	l.arrived, err = os.OpenFile(arrived, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		if err = l.arrived.Truncate(int64(len(l.frames))); err == nil {
			return nil
		}
		err = errors.Join(err, l.arrived.Close(), os.Remove(arrived))
	}
	return errors.Join(fmt.Errorf("create file for what has arrived: %w", err), l.job.image.Close(), os.Remove(path))
}

func (l *Lazy) closeFiles() error { return errors.Join(l.job.image.Close(), l.arrived.Close()) }

// note marks a frame as arrived. The image has it already: a process that dies in
// between only fetches it again, and nobody has written to it.
func (l *Lazy) note(w *wanted) error {
	if _, err := l.arrived.WriteAt([]byte{1}, int64(w.number)); err != nil {
		return fmt.Errorf("note what has arrived: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if part := l.parts[w.chunks[0].index]; !part.there {
		part.there = true
		l.left--
		l.wake(part)
	}
	return nil
}

// wake tells who waits for a part that nobody fetches it any more. Called with mu
// held.
func (l *Lazy) wake(p *part) {
	if p.fetched != nil {
		close(p.fetched)
		p.fetched = nil
	}
}

// Done is closed when all is there.
func (l *Lazy) Done() <-chan struct{} { return l.done }

// Close ends the restore. It may be called again.
func (l *Lazy) Close() {
	l.cancel(errClosed)
	l.mu.Lock()
	l.quiet.Broadcast()
	l.mu.Unlock()
	l.fill.Wait()
}

// Need returns when n bytes of the image from off on are there, or with an error if
// they will not come any more. While the store is away it waits.
func (l *Lazy) Need(off, n int64) error {
	first, end := uint32(off/chunkSize), uint32((off+n+chunkSize-1)/chunkSize)
	if l.there(first, end) {
		return nil
	}
	defer l.wait(first, end)()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		mine, others := l.claim(first, end)
		if len(mine) == 0 && others == nil {
			return nil
		}
		if len(mine) == 0 {
			select {
			case <-others:
				continue
			case <-l.ctx.Done():
				return context.Cause(l.ctx)
			}
		}
		err := l.fetch(mine)
		if err == nil {
			continue
		}
		if l.ctx.Err() != nil || hopeless(err) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-l.ctx.Done():
			return context.Cause(l.ctx)
		}
	}
}

// Who needs what the store does not give asks again after a pause.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// hopeless says that there is no sense in trying again.
func hopeless(err error) bool { return errors.Is(err, ErrCorrupt) || errors.Is(err, store.ErrNotExist) }

// there says whether chunks are.
func (l *Lazy) there(first, end uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := first; l.left > 0 && n < end; n++ {
		if p := l.parts[n]; p != nil && !p.there {
			return false
		}
	}
	return true
}

// wait says that somebody waits for chunks, until what it returns is called.
func (l *Lazy) wait(first, end uint32) (over func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting++
	for n := first; n < end && len(l.waited) < mostEarly; n++ {
		if p := l.parts[n]; p != nil && !p.there {
			l.waited = append(l.waited, n)
		}
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.waiting--; l.waiting == 0 {
			l.quiet.Broadcast()
		}
	}
}

// makeWay returns when nobody waits for anything.
func (l *Lazy) makeWay() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.waiting > 0 && l.ctx.Err() == nil {
		l.quiet.Wait()
	}
}

// claim returns the frames, of the chunks from first to before end, that have not come
// and that nobody fetches, for the caller to fetch; or else, if others fetch some, what
// is closed when one of those has come.
func (l *Lazy) claim(first, end uint32) (mine []*wanted, others <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left == 0 {
		return nil, nil
	}
	for n := first; n < end; n++ {
		p := l.parts[n]
		switch {
		case p == nil || p.there:
		case p.fetched != nil:
			others = p.fetched
		default:
			p.fetched = make(chan struct{})
			mine = append(mine, p.frame)
		}
	}
	return mine, others
}

// mostFetches is how many there are at a time, each with some megabytes of memory:
// how much of its image a session reads at once is the session's to choose.
const mostFetches = 8

// fetch fetches frames that were claimed.
func (l *Lazy) fetch(frames []*wanted) error {
	defer l.release(frames)
	if err := take(l.ctx, l.fetches); err != nil {
		return err
	}
	defer func() { <-l.fetches }()
	for _, p := range pieces(sorted(frames), maxObject-frameSize) {
		if err := l.job.piece(l.ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// sorted has frames in the order that they are stored in.
func sorted(frames []*wanted) []*wanted {
	return slices.SortedFunc(slices.Values(frames), func(a, b *wanted) int { return cmp.Compare(a.number, b.number) })
}

// release lets others fetch what has not come.
func (l *Lazy) release(frames []*wanted) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range frames {
		l.wake(l.parts[f.chunks[0].index])
	}
}

// fillPiece is how much is fetched at once of what nobody waits for: who comes to
// wait for it then waits for no more than that.
const fillPiece = 512 << 10

// run fetches what nobody has asked for.
func (l *Lazy) run() {
	defer func() { _ = l.closeFiles() }() // they were read
	l.fetchEarly()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := l.pass()
		if err == nil {
			break
		}
		if l.ctx.Err() != nil || hopeless(err) {
			<-l.ctx.Done() // who needs it is told
			return
		}
		select {
		case <-time.After(pause):
		case <-l.ctx.Done():
			return
		}
	}
	l.job.r.remember(l.session, l.known)
	l.job.r.Learn(l.session, l.Learnt())
	// Before anybody takes it for complete: nobody is to go on with it from here.
	if err := os.Remove(l.arrived.Name()); err != nil && !errors.Is(err, os.ErrNotExist) {
		<-l.ctx.Done()
		return
	}
	close(l.done)
}

// fetchEarly fetches what will be needed first, all at once.
func (l *Lazy) fetchEarly() {
	var all sync.WaitGroup
	for _, p := range pieces(sorted(l.early()), fillPiece) {
		if mine, _ := l.claimPiece(p); len(mine) > 0 {
			all.Go(func() { _ = l.fetch(mine) }) // or the pass does
		}
	}
	all.Wait()
}

// Learnt lists the chunks that this time were needed early, and the time before, for
// Repository.Learn in another process.
func (l *Lazy) Learnt() []uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := slices.Clone(l.waited)
	for _, n := range l.learnt {
		if len(list) < mostEarly && !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	return list
}

// pass goes once through all that has not come, in the order of the image, so that
// the file system's own tables come early.
func (l *Lazy) pass() error {
	var failed error
	for {
		missing := 0
		for _, p := range pieces(l.frames, fillPiece) {
			l.makeWay()
			mine, others := l.claimPiece(p)
			missing += len(mine)
			if others != nil {
				missing++
			}
			if len(mine) > 0 {
				failed = l.fetch(mine)
			} else if others != nil {
				select {
				case <-others:
				case <-l.ctx.Done():
				}
			}
			if l.ctx.Err() != nil {
				return context.Cause(l.ctx)
			}
			if failed != nil {
				return failed
			}
		}
		if missing == 0 {
			return nil
		}
	}
}

// claimPiece is claim for the frames of a piece.
func (l *Lazy) claimPiece(p piece) (mine []*wanted, others <-chan struct{}) {
	for _, f := range p.frames {
		m, o := l.claim(f.chunks[0].index, f.chunks[0].index+1)
		mine = append(mine, m...)
		if o != nil {
			others = o
		}
	}
	return mine, others
}
