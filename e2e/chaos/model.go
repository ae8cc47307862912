// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package chaos

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// session is what is known of one session, and what must be true of it.
//
// A life of it ends in one of two ways, and its record in KV, which info shows to
// clients, says in which: put to sleep with all that it had, or lost with what came
// after the last checkpoint. So a write that was acknowledged in a life must be there
// for ever if that life was put to sleep, or a checkpoint has it; it may be gone if
// the life was lost; and as long as the life lasts it must be there.
type session struct {
	key     string // names it in contents and logs, before it has an id
	id      string
	created time.Time
	run     *run

	mu    sync.Mutex
	files []*file
	seq   int
	// epoch is the highest that was seen in the record, ends how lives before have
	// ended, as far as that was seen.
	epoch uint64
	ends  map[uint64]end
	open  bool // there are writes whose hi is not known
	kept  bool // a snapshot of it was seen
	// dropped: a delete was sent, and may have been done. gone: there is no session
	// any more, and why.
	dropped bool
	gone    string
	deleted time.Time // when the delete was acknowledged
	// failing is since when it does not answer; zero if it does.
	failing time.Time
	log     []string
}

// end is how a life has ended.
type end int

const (
	unseen end = iota
	asleep
	lost
)

// file is one path in a session. It has one user at a time.
type file struct {
	path    string
	writes  []*write
	current int // what it has, of writes; -1: it does not exist
	used    bool
	// retired: nobody knows whether the last write was done, or is yet to be, so
	// nothing more is written here.
	retired bool
}

// write is one write to a file.
type write struct {
	header string
	size   int
	sum    string
	done   bool // acknowledged, or seen
	acked  time.Time
	// lo and hi are the lives that may have done it; hi 0 is not known yet.
	lo, hi uint64
	kept   bool // a checkpoint has it
	gone   bool // it was seen to be lost
}

const (
	liveFiles = 8  // that are written at a time
	mostFiles = 40 // of all that a session has
	logLines  = 80 // of what was done with a session
)

// note keeps a line for the session's log.
func (s *session) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noteLocked(format, args...)
}

func (s *session) noteLocked(format string, args ...any) {
	s.log = append(s.log, s.run.elapsed()+" "+fmt.Sprintf(format, args...))
	if len(s.log) > logLines {
		s.log = s.log[1:]
	}
}

// take gives the caller up to n files to itself, for writing ones that can be; with
// make it may make one. They are to be given back.
func (s *session) take(n int, writing bool, pick func(n int) int) (list []*file) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var free []*file
	live := 0
	for _, f := range s.files {
		if !f.retired {
			live++
		}
		if !f.used && (!writing || !f.retired) {
			free = append(free, f)
		}
	}
	if writing && live < liveFiles && len(s.files) < mostFiles && (len(free) == 0 || pick(3) == 0) {
		f := &file{path: fmt.Sprintf("dir%d/file%d", len(s.files)%3, len(s.files)), current: -1}
		s.files = append(s.files, f)
		free = append([]*file{f}, free...)
		pick = func(int) int { return 0 }
	}
	for range min(n, len(free)) {
		i := pick(len(free))
		f := free[i]
		free = append(free[:i], free[i+1:]...)
		f.used = true
		list = append(list, f)
	}
	return list
}

func (s *session) give(files []*file) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range files {
		f.used = false
	}
}

// plan makes the next write of a file, which is about to be sent.
func (s *session) plan(f *file, size int) *write {
	epoch := s.run.witness.look(s).Epoch
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	w := &write{header: fmt.Sprintf("session %s file %s write %d", s.key, f.path, s.seq), size: size, lo: max(epoch, s.epoch, 1)}
	w.sum = sum(content(w.header, w.size))
	s.run.known.add(w.sum, w.header)
	f.writes = append(f.writes, w)
	return w
}

// done notes that the last write of a file was acknowledged.
func (s *session) done(f *file) {
	acked := time.Now()
	epoch := s.run.witness.look(s).Epoch
	s.mu.Lock()
	defer s.mu.Unlock()
	f.current = len(f.writes) - 1
	w := f.writes[f.current]
	w.done, w.acked, w.hi = true, acked, epoch
	s.open = s.open || epoch == 0
}

// unsure notes that nobody knows whether the last write of a file was done.
func (s *session) unsure(f *file) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.retired = true
}

// checkpointed notes that a life's writes which were acknowledged before a moment
// are stored.
func (s *session) checkpointed(epoch uint64, before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		for _, w := range f.writes {
			if w.done && w.lo == epoch && w.hi == epoch && w.acked.Before(before) {
				w.kept = true
			}
		}
	}
}

// observe compares what was read of a file, "" for none, with what may be there, and
// says what is wrong. The caller has the file to itself.
func (s *session) observe(f *file, sum string) error {
	s.mu.Lock()
	now, older := s.find(f, sum)
	s.mu.Unlock()
	if now == notThere {
		return fmt.Errorf("file %s has something else: %s", f.path, s.run.known.is(sum))
	}
	if older {
		// How the lives have ended in which the newer writes were done.
		if err := s.run.witness.mustLook(s); err != nil {
			s.note("nobody can say whether the loss in %s is known: %v", f.path, err)
			return nil
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case now > f.current:
		// The write of which nobody knew.
		w := f.writes[now]
		w.done, w.acked, w.hi, s.open = true, time.Now(), 0, true
	case now < f.current:
		if err := s.rolledBack(f, now); err != nil {
			return err
		}
	}
	if now >= 0 && f.writes[now].gone {
		return fmt.Errorf("file %s has %q again, which was lost before", f.path, f.writes[now].header)
	}
	f.current = now
	return nil
}

// notThere is find's answer for what was never written there.
const notThere = -2

func (s *session) find(f *file, sum string) (now int, older bool) {
	if sum == "" {
		return -1, f.current > -1
	}
	for n, w := range f.writes {
		if w.sum == sum {
			return n, n < f.current
		}
	}
	return notThere, false
}

// rolledBack says what of the writes after one may not be lost, and takes the others
// for lost.
func (s *session) rolledBack(f *file, now int) error {
	has := "nothing"
	if now >= 0 {
		has = fmt.Sprintf("%q", f.writes[now].header)
	}
	for _, w := range f.writes[now+1 : f.current+1] {
		if !w.done {
			continue
		}
		loss := fmt.Errorf("%q is lost: acknowledged %.1f s into the run, in life %d to %d; %s has %s; lives ended %v, now %d",
			w.header, w.acked.Sub(s.run.begin).Seconds(), w.lo, w.hi, f.path, has, s.endings(), s.epoch)
		if w.kept {
			return fmt.Errorf("a write that a checkpoint had: %w", loss)
		}
		if !s.excused(w) {
			return fmt.Errorf("a write of which nobody has told that it is lost: %w", loss)
		}
		w.gone = true
		s.run.tally.count("writes", "lost, and said so")
	}
	return nil
}

// excused says whether a life that may have done a write was lost.
func (s *session) excused(w *write) bool {
	hi := w.hi
	if hi == 0 {
		hi = s.epoch
	}
	for epoch := w.lo; epoch <= hi; epoch++ {
		switch {
		case s.ends[epoch] == lost:
			return true
		case s.ends[epoch] == unseen && epoch < s.epoch:
			s.run.tally.count("writes", "lost in a life whose end was not seen")
			return true
		}
	}
	return false
}

// wroteIn says whether a write was acknowledged that was surely done in a life. Called
// with the lock held.
func (s *session) wroteIn(epoch uint64) bool {
	for _, f := range s.files {
		for _, w := range f.writes {
			if w.done && w.lo == epoch && w.hi == epoch {
				return true
			}
		}
	}
	return false
}

// endings are how the last lives have ended, for messages.
func (s *session) endings() string {
	var parts []string
	for epoch := max(s.epoch, 6) - 5; epoch <= s.epoch; epoch++ {
		parts = append(parts, fmt.Sprintf("%d:%s", epoch, [...]string{"?", "asleep", "lost"}[s.ends[epoch]]))
	}
	return "[" + strings.Join(parts, " ") + "]"
}
