// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/buntime/buntime/driver/guest/wire"
)

// keepHistory is how many executions .buntime remembers (api.md).
const keepHistory = 1000

// history is the session's own record of its executions, below
// /workspace/.buntime. It lies in the workspace, so the session can read it,
// and can spoil it: what is read of it is shown to its owner and nothing else,
// and whatever lies where something is to be written is removed and not opened.
type history struct {
	files *files

	mu    sync.Mutex
	known int // entries below executions/, counted on first need; -1 before
	// limit is how many bytes all entries together may have, fresh how many of
	// output came since they were last measured.
	limit, fresh int64
}

// journal is one execution's entry.
type journal struct {
	h      *history
	label  label
	source string

	mu    sync.Mutex
	given bool // init has the files and appends to them
	// recovered: the source was written by an earlier process of the plugin.
	recovered bool
	finished  bool
	size      int64 // of the output when it was finished
}

func (h *history) of(l label, source string) *journal {
	return &journal{h: h, label: l, source: source}
}

func entryDir(id string) string { return path.Join(historyDir, "executions", id) }

// sourceName is what the code or the command is kept as.
func (j *journal) sourceName() string {
	if j.label.Code {
		return "code.ts"
	}
	return "command.sh"
}

// begin makes the entry of an execution that goes on, or whose processes do, and
// hands its files to init, which writes the output there from its first byte on.
func (j *journal) begin(e *execution, c *guest) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.given || j.finished {
		return
	}
	if err := j.create(e.lookup()); err != nil {
		return // a full workspace, most likely; finish reports it
	}
	var fds []*os.File
	defer func() {
		for _, f := range fds {
			f.Close()
		}
	}()
	for _, name := range []string{"stdout", "stderr", "order"} {
		f, err := j.h.files.create(path.Join(entryDir(j.label.ExecutionID), name), os.O_APPEND)
		if err != nil {
			return
		}
		fds = append(fds, f)
	}
	j.given = c.Write(wire.KindJournal, nil, fds...) == nil
	if pid := e.firstPid(); pid != 0 {
		_ = j.h.put(processPath(pid), map[string]any{
			"pid": pid, "executionId": e.ExecutionID, "command": e.title(), "startedAt": timestamp(e.StartedAt),
		})
	}
}

func processPath(pid int) string {
	return path.Join(historyDir, "processes", strconv.Itoa(pid)+".json")
}

// create makes the directory and the files that do not grow.
func (j *journal) create(r Result) error {
	dir := entryDir(j.label.ExecutionID)
	if err := j.h.files.mkdirAll(dir); err != nil {
		return err
	}
	if !j.recovered {
		if err := j.h.files.put(path.Join(dir, j.sourceName()), []byte(j.source)); err != nil {
			return err
		}
	}
	return j.h.put(path.Join(dir, "result.json"), r)
}

// finish writes the result, and the output where init has not.
func (j *journal) finish(e *execution, r Result) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if pid := e.firstPid(); j.given && pid != 0 {
		_ = j.h.files.root.Remove(processPath(pid))
	}
	r.State = stateExited
	if j.finished && j.size == e.output.offset() {
		return nil
	}
	first := !j.finished
	j.finished, j.size = true, e.output.offset()
	if err := j.create(r); err != nil {
		return err
	}
	if pieces, whole := e.output.whole(); whole && !j.given {
		if err := j.write(pieces); err != nil {
			return err
		}
	}
	if !first {
		return nil
	}
	return j.h.prune(e.output.offset())
}

// write makes the three output files from pieces.
func (j *journal) write(pieces []piece) error {
	content := map[stream][]byte{}
	order := make([]byte, 0, 5*len(pieces))
	for _, p := range pieces {
		content[p.stream] = append(content[p.stream], p.data...)
		order = binary.BigEndian.AppendUint32(append(order, byte(p.stream)), uint32(len(p.data)))
	}
	dir := entryDir(j.label.ExecutionID)
	for _, s := range []stream{stdout, stderr} {
		if err := j.h.files.put(path.Join(dir, s.String()), content[s]); err != nil {
			return err
		}
	}
	return j.h.files.put(path.Join(dir, "order"), order)
}

// put writes v as JSON.
func (h *history) put(name string, v any) error {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := h.files.mkdirAll(path.Dir(name)); err != nil {
		return err
	}
	return h.files.put(name, append(body, '\n'))
}

// result reads the entry of an execution that is no longer in memory.
func (h *history) result(id string) (Result, error) { return h.load(id, "result.json") }

// answer reads what the caller of a server that stays was told.
func (h *history) answer(id string) (Result, error) { return h.load(id, answerName) }

// answerName is the file of what the caller was told of an execution that went on
// after that, and whose result became another.
const answerName = "answer.json"

// keepAnswer writes it. Where there is no room for it, the result has to do.
func (j *journal) keepAnswer(e *execution) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.recovered {
		_ = j.h.put(path.Join(entryDir(j.label.ExecutionID), answerName), e.told())
	}
}

// longestRecord is what a result may have in bytes: two streams, of which JSON makes six
// characters of a byte at worst. The session can put anything in its place.
const longestRecord = 2*6*answerLimit + 64<<10

func (h *history) load(id, name string) (Result, error) {
	var r Result
	f, err := h.read(id, name)
	if err != nil {
		return r, notFound("execution_not_found", "there is no execution %s in this session", id)
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, longestRecord)).Decode(&r); err != nil {
		return r, notFound("execution_not_found", "the record of execution %s is damaged: %v", id, err)
	}
	return r, nil
}

func (h *history) read(id, name string) (*os.File, error) {
	if id == "" || id != path.Base(path.Clean(id)) || id == ".." || id == "." {
		return nil, fs.ErrNotExist
	}
	f, st, err := h.files.open(path.Join(entryDir(id), name))
	if err == nil && !st.Mode().IsRegular() {
		f.Close()
		err = fs.ErrNotExist
	}
	return f, err
}

// wholeJournal stands for the end of a journal, wherever that is.
const wholeJournal = 1 << 62

// replay calls f with the recorded output from offset on, in pieces, until to.
// The end of the journal before to is no error where to is wholeJournal.
func (h *history) replay(ctx context.Context, id string, offset, to int64, f func(piece) error) error {
	var in [2]*os.File
	order, err := h.read(id, "order")
	if err != nil {
		return err
	}
	defer order.Close()
	for i, name := range []string{"stdout", "stderr"} {
		if in[i], err = h.read(id, name); err != nil {
			return err
		}
		defer in[i].Close()
	}
	r := bufio.NewReader(order)
	var at int64
	for at < to {
		var head [5]byte
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := io.ReadFull(r, head[:]); err != nil {
			if to == wholeJournal && err == io.EOF {
				return nil
			}
			return fmt.Errorf("read the order of the output of %s: %w", id, err)
		}
		if wire.Kind(head[0]) == wire.JournalFull {
			return fmt.Errorf("read the output of %s: the journal was full after %d bytes, what came then is lost", id, at)
		}
		n := int64(binary.BigEndian.Uint32(head[1:]))
		if n == 0 || n > wire.MaxData || stream(head[0]) != stdout && stream(head[0]) != stderr {
			return fmt.Errorf("read the order of the output of %s: it is damaged at byte %d", id, at)
		}
		s, src := stdout, in[0]
		if stream(head[0]) == stderr {
			s, src = stderr, in[1]
		}
		data := make([]byte, n)
		if _, err := io.ReadFull(src, data); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read the output of %s: %w", id, err)
		}
		begin := at
		at += n
		if at <= offset {
			continue
		}
		if skip := offset - begin; skip > 0 {
			data, begin = data[skip:], offset
		}
		if err := f(piece{s, begin, data}); err != nil {
			return err
		}
	}
	return nil
}

// pruneTo is how much of what history may have is left when it had too much, so
// that the next execution does not have to look at all of it again.
const pruneTo = 0.9

// pruneTimeout bounds how long the entries are made fewer; the next prune goes on.
const pruneTimeout = 10 * time.Second

// prune keeps the newest executions, as many as there may be and as fit in limit.
// size is how much output the one has that was just recorded. Directories nested
// too deep, which are none of ours, are passed over, and not tried again before
// there are too many once more.
func (h *history) prune(size int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fresh += size
	if h.known++; h.known > 0 && h.known <= keepHistory && h.fresh <= h.limit/4 {
		return nil
	}
	all, err := h.entries()
	if err != nil {
		return err
	}
	var bytes int64
	for _, e := range all {
		bytes += e.size
	}
	h.known, h.fresh = len(all), 0
	if h.known <= keepHistory && bytes <= h.limit {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), pruneTimeout, fmt.Errorf("not done in %s", pruneTimeout))
	defer cancel()
	count, most := int(keepHistory*pruneTo), int64(float64(h.limit)*pruneTo)
	for _, old := range all[:max(0, len(all)-1)] { // the newest stays, whatever it is
		if h.known <= count && bytes <= most {
			break
		}
		err := h.files.removeAll(ctx, path.Join(historyDir, "executions", old.name))
		if err != nil && !errors.Is(err, errDeep) {
			return fmt.Errorf("remove the history of execution %s: %w", old.name, err)
		}
		h.known--
		bytes -= old.size
	}
	return nil
}

// entry is one execution below executions/.
type entry struct {
	name string
	at   int64 // of its last change, in ns
	size int64 // of its files on the disk, in bytes
}

// entries measures all that there is, oldest first. What the session makes of
// it in the meantime is passed over.
func (h *history) entries() ([]entry, error) {
	dir := path.Join(historyDir, "executions")
	list, err := fs.ReadDir(h.files.root.FS(), dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all := make([]entry, 0, len(list))
	for _, d := range list {
		st, err := d.Info()
		if err != nil {
			continue
		}
		e := entry{name: d.Name(), at: st.ModTime().UnixNano()}
		for _, name := range []string{"stdout", "stderr", "order", "result.json", answerName, "code.ts", "command.sh"} {
			if st, err := h.files.root.Lstat(path.Join(dir, d.Name(), name)); err == nil {
				e.size += onDisk(st)
			}
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.at, b.at) })
	return all, nil
}

// onDisk is what a file takes, in bytes: a sparse one is not as big as it says.
func onDisk(st fs.FileInfo) int64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Blocks * 512
	}
	return st.Size()
}

// create makes a new regular file of the session's. What has its name is
// removed first: it may be a link, or a pipe that nobody reads.
func (f *files) create(name string, flags int) (*os.File, error) {
	if err := f.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	w, err := f.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY|flags, 0o644)
	if err != nil {
		return nil, err
	}
	if err := w.Chown(f.uid, f.uid); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// put writes a file that nobody reads while it is written.
func (f *files) put(name string, content []byte) error {
	w, err := f.create(name, 0)
	if err != nil {
		return err
	}
	_, err = w.Write(content)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	return err
}
