// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package settings fills a configuration from a file, the environment and flags. What
// a flag says counts before the environment, that before the file, and that before the
// default.
//
// A setting is a field with a json tag, in a struct or in one below it; its name is the
// path of the tags, "pool.max_age". The file is JSON with comments and commas at ends.
// In the environment the setting is <prefix>POOL_MAX_AGE, and the flag -pool-max-age.
//
// A field tagged secret:"true" can everywhere be given as a file that has it, under its
// name with _file after it. It is no flag itself: those stand in lists of processes.
package settings

import (
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Set are the settings of a configuration.
type Set struct {
	config reflect.Value
	all    []*Setting
	groups map[string][]int // names of structs, to where they are
}

// Setting is one of them.
type Setting struct {
	Name string
	// Secret is not shown, and may be in a file of its own.
	Secret bool
	// From says who gave the value; empty is nobody, so that it is the default.
	From string

	index []int
	typ   reflect.Type
	file  string // which has the value; see Set.fetch
	layer int    // which gave it
}

// Of finds the settings of a configuration, a pointer to a struct.
func Of(config any) *Set {
	s := &Set{config: reflect.ValueOf(config).Elem(), groups: map[string][]int{}}
	s.walk(s.config.Type(), "", nil)
	return s
}

var isText = reflect.TypeFor[encoding.TextUnmarshaler]()

func (s *Set) walk(t reflect.Type, prefix string, index []int) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		name = prefix + name
		at := append(slices.Clip(index), i)
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && !reflect.PointerTo(inner).Implements(isText) {
			s.groups[name] = at
			s.walk(inner, name+".", at)
			continue
		}
		s.all = append(s.all, &Setting{Name: name, Secret: f.Tag.Get("secret") == "true", index: at, typ: f.Type})
	}
}

// All are the settings in the order of their fields.
func (s *Set) All() []*Setting { return s.all }

// Value is what a setting is now, and whether the struct that it is in is there.
func (s *Set) Value(st *Setting) (any, bool) {
	v, ok := s.at(st.index, false)
	if !ok {
		return nil, false
	}
	return v.Interface(), true
}

// at is a field. Pointers to structs on the way to it, and such a field itself, are
// filled in if make is true.
func (s *Set) at(index []int, fill bool) (reflect.Value, bool) {
	v := s.config
	for _, i := range index {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return v, false
			}
			v = v.Elem()
		}
		v = v.Field(i)
		if fill && v.Kind() == reflect.Pointer && v.IsNil() && v.Type().Elem().Kind() == reflect.Struct {
			v.Set(reflect.New(v.Type().Elem()))
		}
	}
	return v, true
}

// fileSuffix makes the name of a secret that of its file.
const fileSuffix = "_file"

// find is the setting of a name, or of a name with _file.
func (s *Set) find(name string) (st *Setting, file bool) {
	for _, st := range s.all {
		switch {
		case st.Name == name:
			return st, false
		case st.Secret && st.Name+fileSuffix == name:
			return st, true
		}
	}
	return nil, false
}

// put notes that a layer has given a setting, or the file that has it.
func (s *Set) put(st *Setting, layer int, from, file string) error {
	if st.layer == layer {
		return fmt.Errorf("%s: given twice, by %s and %s; leave one of them out", st.Name, st.From, from)
	}
	if file != "" {
		v, _ := s.at(st.index, true)
		v.SetZero()
	}
	st.layer, st.From, st.file = layer, from, file
	return nil
}

// fetch reads the files of secrets.
func (s *Set) fetch() error {
	for _, st := range s.all {
		if st.file == "" {
			continue
		}
		text, err := os.ReadFile(st.file)
		if err != nil {
			return fmt.Errorf("%s: read what %s names: %w", st.Name, st.From, err)
		}
		secret := strings.TrimRight(string(text), "\r\n")
		if secret == "" {
			return fmt.Errorf("%s: %s, which %s names, is empty", st.Name, st.file, st.From)
		}
		v, _ := s.at(st.index, true)
		if err := parse(v, secret); err != nil {
			return fmt.Errorf("%s: %s: %w", st.Name, st.file, err)
		}
		st.From += ", " + st.file
		s.tell(st)
	}
	return nil
}

// tell sets the field beside a secret that has its name with File after it, if there is
// one: who has that can read the file anew when it changes.
func (s *Set) tell(st *Setting) {
	last := len(st.index) - 1
	group, _ := s.at(st.index[:last], true)
	if group.Kind() == reflect.Pointer {
		group = group.Elem()
	}
	if path := group.FieldByName(group.Type().Field(st.index[last]).Name + "File"); path.IsValid() {
		path.SetString(st.file)
	}
}

// parse sets a value as the environment and flags have it.
func parse(v reflect.Value, text string) error {
	if v.CanAddr() {
		if u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr()); ok {
			return u.UnmarshalText([]byte(text))
		}
	}
	wrong := fmt.Errorf("not %s", kind(v.Type()))
	switch v.Kind() {
	case reflect.Pointer:
		inner := reflect.New(v.Type().Elem())
		if err := parse(inner.Elem(), text); err != nil {
			return err
		}
		v.Set(inner)
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return wrong
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return wrong
		}
		v.SetInt(n)
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return wrong
		}
		v.SetFloat(f)
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.String {
			return fmt.Errorf("it can only be set in the file")
		}
		v.SetZero()
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				v.Set(reflect.Append(v, reflect.ValueOf(part).Convert(v.Type().Elem())))
			}
		}
	default:
		return fmt.Errorf("it can only be set in the file")
	}
	return nil
}

// kind says what a setting has to be.
func kind(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(isText) {
		return "text in quotes"
	}
	switch t.Kind() {
	case reflect.String:
		return "text in quotes"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list"
	}
	return "of the right form"
}

// Print writes all settings, what they are and who says so, but for secrets.
func (s *Set) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, st := range s.all {
		v, ok := s.at(st.index, false)
		if !ok {
			continue // its group is not there
		}
		from := st.From
		if from == "" {
			from = "default"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", st.Name, show(v, st.Secret), from)
	}
	return t.Flush()
}

func show(v reflect.Value, secret bool) string {
	switch {
	case secret && v.IsZero():
		return "(none)"
	case secret:
		return "(hidden)"
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		return fmt.Sprintf("(%d in the file)", v.Len())
	case v.Kind() == reflect.Slice && v.Len() == 0:
		return "[]"
	}
	text, err := json.Marshal(v.Interface())
	if err != nil {
		return err.Error()
	}
	return string(text)
}
