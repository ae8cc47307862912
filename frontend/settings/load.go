// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	strict "github.com/go-json-experiment/json"
	"github.com/tailscale/hujson"
)

// Sources say where settings come from. Each may be left empty.
type Sources struct {
	// File is a path.
	File string
	// Environ are the environment's variables. Those that begin with Prefix have to
	// be settings. Alias are further names of some.
	Environ []string
	Prefix  string
	Alias   map[string]string
	// Flags are those that were given.
	Flags *Flags
}

// The layers, the last of which counts.
const (
	fileLayer = 1 + iota
	environLayer
	flagLayer
)

// Load fills a configuration, a pointer to a struct, from its sources.
func Load(config any, from Sources) (*Set, error) {
	s := Of(config)
	if from.File != "" {
		text, err := os.ReadFile(from.File)
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		if err := s.readFile(text, from.File); err != nil {
			return nil, fmt.Errorf("read configuration %s: %w", from.File, err)
		}
	}
	if err := s.readEnviron(from); err != nil {
		return nil, fmt.Errorf("read configuration from the environment: %w", err)
	}
	if from.Flags != nil {
		if err := s.readFlags(from.Flags); err != nil {
			return nil, fmt.Errorf("read configuration from flags: %w", err)
		}
	}
	if err := s.fetch(); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return s, nil
}

func (s *Set) readFile(text []byte, from string) error {
	plain, err := hujson.Standardize(text)
	if err != nil {
		return err
	}
	return s.readObject("", plain, from)
}

// readObject reads the settings of a group. encoding/json would take names in other
// letters and twice, and say of what it does not know neither where it is nor what is like it.
func (s *Set) readObject(prefix string, text []byte, from string) error {
	var members map[string]json.RawMessage
	if err := strict.Unmarshal(text, &members); err != nil {
		where := strings.TrimSuffix(prefix, ".")
		if where == "" {
			where = "the whole"
		}
		if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
			return fmt.Errorf("%s: %w", where, err)
		}
		return fmt.Errorf("%s has to be an object: {…}", where)
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if err := s.readMember(prefix+name, members[name], from); err != nil {
			return err
		}
	}
	return nil
}

func (s *Set) readMember(name string, text []byte, from string) error {
	if string(text) == "null" {
		return nil
	}
	if index, ok := s.groups[name]; ok {
		s.at(index, true)
		return s.readObject(name+".", text, from)
	}
	st, file := s.find(name)
	if st == nil {
		return s.unknown(name, func(known string) string { return known })
	}
	if file {
		var path string
		if json.Unmarshal(text, &path) != nil || path == "" {
			return fmt.Errorf("%s: not text in quotes", name)
		}
		return s.put(st, fileLayer, from, path)
	}
	if err := s.put(st, fileLayer, from, ""); err != nil {
		return err
	}
	v, _ := s.at(st.index, true)
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v.Addr().Interface()); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok { // no value is told: it may be a secret
			if wrong.Field != "" {
				return fmt.Errorf("%s: %s is not %s", name, wrong.Field, kind(wrong.Type))
			}
			return fmt.Errorf("%s: not %s", name, kind(st.typ))
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (s *Set) readEnviron(from Sources) error {
	names := map[string]string{}
	for name, other := range from.Alias {
		names[name] = other
		names[name+strings.ToUpper(fileSuffix)] = other + fileSuffix
	}
	variable := func(name string) string {
		return from.Prefix + strings.ToUpper(strings.ReplaceAll(name, ".", "_"))
	}
	for _, name := range s.names() {
		names[variable(name)] = name
	}
	for _, entry := range from.Environ {
		name, text, _ := strings.Cut(entry, "=")
		setting, ok := names[name]
		switch {
		case !ok && from.Prefix != "" && strings.HasPrefix(name, from.Prefix):
			return s.unknown(name, variable)
		case !ok, text == "":
			continue
		}
		if err := s.give(setting, text, environLayer, name); err != nil {
			return err
		}
	}
	return nil
}

// give sets a setting, or names its file, by text.
func (s *Set) give(name, text string, layer int, from string) error {
	st, file := s.find(name)
	if file {
		return s.put(st, layer, from, text)
	}
	if err := s.put(st, layer, from, ""); err != nil {
		return err
	}
	v, _ := s.at(st.index, true)
	if err := parse(v, text); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return nil
}

// names are those of all settings, and of the files of secrets.
func (s *Set) names() []string {
	var names []string
	for _, st := range s.all {
		names = append(names, st.Name)
		if st.Secret {
			names = append(names, st.Name+fileSuffix)
		}
	}
	return names
}

// Flags are settings as flags.
type Flags struct {
	flags *flag.FlagSet
	set   *Set
	given []flagged
}

type flagged struct{ flag, setting, text string }

// Register makes flags of the settings of a configuration.
func Register(flags *flag.FlagSet, config any) *Flags {
	flags.SetOutput(io.Discard) // Parse's error says it better
	f := &Flags{flags: flags, set: Of(config)}
	for _, name := range f.set.names() {
		st, file := f.set.find(name)
		if st.Secret && !file {
			continue
		}
		as := flagOf(name)
		note := func(text string) error {
			f.given = slices.DeleteFunc(f.given, func(g flagged) bool { return g.flag == as }) // the last counts, as with all flags
			f.given = append(f.given, flagged{as, name, text})
			return nil
		}
		if st.typ.Kind() == reflect.Bool {
			flags.BoolFunc(as, "", note)
		} else {
			flags.Func(as, "", note)
		}
	}
	return f
}

// Parse parses a command line. Its error names what is not known, and what is like it.
func (f *Flags) Parse(args []string) error {
	err := f.flags.Parse(args)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return err
	}
	if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		name = strings.TrimLeft(name, "-")
		if st, file := f.set.find(strings.ReplaceAll(name, "-", "_")); st != nil && st.Secret && !file {
			return fmt.Errorf("-%s: a secret is no flag, as those stand in lists of processes; name a file that has it with -%s", name, flagOf(st.Name+fileSuffix))
		}
		var known []string
		f.flags.VisitAll(func(each *flag.Flag) { known = append(known, "-"+each.Name) })
		return unknown("-"+name, "flag", known)
	}
	return err
}

func (s *Set) readFlags(f *Flags) error {
	for _, g := range f.given {
		if err := s.give(g.setting, g.text, flagLayer, "-"+g.flag); err != nil {
			return err
		}
	}
	return nil
}

func flagOf(name string) string { return strings.NewReplacer(".", "-", "_", "-").Replace(name) }

// unknown is the error for a name that is no setting's, where they are called as says.
func (s *Set) unknown(name string, as func(known string) string) error {
	var known []string
	for _, n := range s.names() {
		known = append(known, as(n))
	}
	return unknown(name, "setting", known)
}

// unknown names what is like a name that is none of what there is.
func unknown(name, what string, known []string) error {
	last := func(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }
	best, least := "", 3
	for _, k := range known {
		d := levenshtein.Distance(k, name, nil)
		if last(k) == last(name) { // in another group
			d = min(d, 1)
		}
		if d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return fmt.Errorf("%s is no %s", name, what)
	}
	return fmt.Errorf("%s is no %s; did you mean %s?", name, what, best)
}
