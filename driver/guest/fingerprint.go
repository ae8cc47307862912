// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// fingerprint is what Bun reads at its start and then holds for true, in the
// directory it runs in and, in the workspace, in those above:
//
//   - the names in the directory, with their types: an import is looked up
//     among them, so a name that is gone, or a new one that comes before an old
//     one in the look-up, leads to another file than with a fresh Bun. New names
//     that no old one stands for are looked up afresh (Bun reads the directory
//     again before it says that an import cannot be found);
//   - whether there is a node_modules (what is in it is read when asked for);
//   - package.json, tsconfig.json and jsconfig.json, with what the last two
//     extend; and in the working directory alone bunfig.toml and .env files.
//
// Measured with Bun 1.4.5; testdata/stale has a case for each.
type fingerprint struct {
	dirs  []dirPrint
	files map[string]fileID
	// unknown: there was more to look at than init is ready to look at.
	unknown bool
	// reroutes: a tsconfig.json may have Bun take a module of the session's for the
	// gate's.
	reroutes bool
}

// dirPrint is a directory as it was.
type dirPrint struct {
	path  string
	id    fileID
	names map[string]fs.FileMode
}

// fileID tells one state of a file from another; the zero value is no file.
type fileID struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

func identify(name string) fileID {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return fileID{}
	}
	return fileID{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}
}

// maxNames bounds the names that are remembered of a directory. Any change of a
// larger one counts.
const maxNames = 10_000

// takeFingerprint must come before Bun's start: what changes while Bun reads
// then counts as changed.
func takeFingerprint(dir, workspace string) fingerprint {
	f := fingerprint{files: make(map[string]fileID)}
	for d := dir; ; d = path.Dir(d) {
		p := dirPrint{path: d, id: identify(d)}
		p.names = listNames(d)
		f.dirs = append(f.dirs, p)
		for name := range p.names {
			switch {
			case name == "tsconfig.json" || name == "jsconfig.json":
				f.addConfig(path.Join(d, name), 0)
			case name == "package.json", d == dir && (name == "bunfig.toml" || isDotEnv(name)):
				f.add(path.Join(d, name))
			}
		}
		if d == "/" || d == workspace || !strings.HasPrefix(d, workspace+"/") {
			return f
		}
	}
}

func (f *fingerprint) add(name string) { f.files[name] = identify(name) }

// extends finds what a tsconfig.json builds on. To look into comments as well
// only means to watch a file too many.
var extends = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`"extends"\s*:\s*("(?:[^"\\]|\\.)*"|\[[^\]]*\])`)
})

// reroutes finds, among what "paths" maps, what the gate's path could match, which is
// absolute: a key that begins with *, / or an escape. Any such key will do, wherever it
// stands.
var reroutes = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?s)["'][*/\\][^"'\n]*["'](?:\s|/\*.*?\*/|//[^\n]*)*:`)
})

// addConfig adds a tsconfig.json and, to a depth that no project has, what it
// extends.
func (f *fingerprint) addConfig(name string, depth int) {
	if _, known := f.files[name]; known {
		return
	}
	if depth > 8 || len(f.files) >= maxConfigs {
		f.unknown = true
		return
	}
	f.add(name)
	text, err := readConfig(name)
	if err != nil {
		f.unknown = f.unknown || !errors.Is(err, unix.ENOENT)
		return
	}
	f.reroutes = f.reroutes || reroutes().Match(text)
	for _, m := range extends().FindAllSubmatch(text, -1) {
		var one string
		var bases []string
		if json.Unmarshal(m[1], &one) == nil {
			bases = []string{one}
		} else if json.Unmarshal(m[1], &bases) != nil {
			continue
		}
		for _, base := range bases {
			for _, candidate := range configPaths(path.Dir(name), base) {
				f.addConfig(candidate, depth+1)
			}
		}
	}
}

const (
	// maxConfig bounds a configuration file that init reads. It is outside of the
	// session's memory limit, and these files are the session's.
	maxConfig = 1 << 20
	// maxConfigs bounds the files of a fingerprint.
	maxConfigs = 256
)

// errConfig is a file that is none to read: not a regular file, or too large.
var errConfig = errors.New("no file of a configuration")

// readConfig reads a file that is the session's to choose: it could be a pipe that
// nobody writes to, or a device without an end.
func readConfig(name string) ([]byte, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxConfig {
		return nil, errConfig
	}
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(text) > maxConfig {
		err = errConfig
	}
	return text, err
}

// configPaths are the files that "extends" may mean. Those that are not there
// are watched for.
func configPaths(dir, base string) []string {
	full := path.Join(dir, base)
	switch {
	case strings.HasPrefix(base, "/"):
		full = base
	case !strings.HasPrefix(base, "."):
		full = path.Join(dir, "node_modules", base)
		return []string{full, full + ".json", full + "/tsconfig.json"}
	}
	return []string{full, full + ".json"}
}

func isDotEnv(name string) bool { return name == ".env" || strings.HasPrefix(name, ".env.") }

// listNames returns nil for a directory that cannot be read or is too large.
func listNames(dir string) map[string]fs.FileMode {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	entries, err := f.ReadDir(maxNames + 1)
	if err != nil && !errors.Is(err, io.EOF) || len(entries) > maxNames {
		return nil
	}
	names := make(map[string]fs.FileMode, len(entries))
	for _, e := range entries {
		if !isOurs(e.Name()) {
			names[e.Name()] = e.Type()
		}
	}
	return names
}

// isOurs tells of files that come and go with executions.
func isOurs(name string) bool { return name == ".buntime" || wire.IsEntry(name) }

// holds tells whether a fresh Bun would find everything as it was.
func (f *fingerprint) holds() bool {
	if f.unknown {
		return false
	}
	for name, id := range f.files {
		if identify(name) != id {
			return false
		}
	}
	return !slices.ContainsFunc(f.dirs, dirPrint.changed)
}

func (p dirPrint) changed() bool {
	switch id := identify(p.path); {
	case id == p.id:
		return false
	case id.dev != p.id.dev || id.ino != p.id.ino:
		return true // another directory
	}
	now := listNames(p.path)
	if p.names == nil || now == nil {
		return true
	}
	for name, typ := range p.names {
		if t, ok := now[name]; !ok || t != typ {
			return true
		}
	}
	if len(now) == len(p.names) {
		return false
	}
	return outranks(now, p.names)
}

// outranks tells whether a name of now that is not in old could be found where
// an import found an old one before: ./a is a.ts before a.js before a/index.ts,
// and ./a.js is a.js before a.ts.
func outranks(now, old map[string]fs.FileMode) bool {
	stems := make(map[string]bool, 2*len(old))
	for name := range old {
		stems[name], stems[stem(name)] = true, true
	}
	for name := range maps.Keys(now) {
		if _, known := old[name]; known {
			continue
		}
		if special(name) || stems[name] || stems[stem(name)] {
			return true
		}
	}
	return false
}

// special names mean something by being there.
func special(name string) bool {
	switch name {
	case "node_modules", "package.json", "tsconfig.json", "jsconfig.json", "bunfig.toml":
		return true
	}
	return isDotEnv(name)
}

// stem is name without its last extension.
func stem(name string) string {
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		return name[:i]
	}
	return name
}
