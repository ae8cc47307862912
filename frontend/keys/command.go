// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package keys

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/buntime/buntime/frontend"
)

// Usage says what Command takes.
const Usage = `  keys create -account NAME [-plan free|paid|enterprise] [-limit NAME=VALUE]... [-label TEXT] [-expires DURATION] [-operator]
  keys list [-account NAME] [-json]
  keys change [-plan NAME] [-limit NAME=VALUE]... ID
  keys rotate [-grace DURATION] ID
  keys revoke ID
`

// Command runs a command line: what comes after the word keys. A new key's text is
// printed once.
func Command(ctx context.Context, m *Manager, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("keys: say create, list, change, rotate or revoke")
	}
	c := &command{m: m, out: out, flags: flag.NewFlagSet("keys "+args[0], flag.ContinueOnError)}
	c.flags.SetOutput(io.Discard) // its errors come back
	run, ok := map[string]func(context.Context, []string) error{
		"create": c.create, "list": c.list, "change": c.change, "rotate": c.rotate, "revoke": c.revoke,
	}[args[0]]
	if !ok {
		return fmt.Errorf("keys: there is no %q: say create, list, change, rotate or revoke", args[0])
	}
	return run(ctx, args[1:])
}

type command struct {
	m     *Manager
	out   io.Writer
	flags *flag.FlagSet
}

// parse reads flags and wants so many other arguments.
func (c *command) parse(args []string, more int) error {
	if err := c.flags.Parse(args); err != nil {
		return fmt.Errorf("%s: %w", c.flags.Name(), err)
	}
	if c.flags.NArg() != more {
		return fmt.Errorf("%s: there are %d arguments behind the flags, and it takes %d", c.flags.Name(), c.flags.NArg(), more)
	}
	return nil
}

func (c *command) create(ctx context.Context, args []string) error {
	var r Record
	c.flags.StringVar(&r.Account, "account", "", "")
	c.flags.StringVar(&r.Plan, "plan", "free", "")
	c.flags.StringVar(&r.Label, "label", "", "")
	expires := c.flags.Duration("expires", 0, "")
	c.flags.Var((*limits)(&r.Limits), "limit", "")
	c.flags.BoolVar(&r.Operator, "operator", false, "")
	if err := c.parse(args, 0); err != nil {
		return err
	}
	if *expires < 0 {
		return fmt.Errorf("keys create: -expires %v has passed", *expires)
	}
	if *expires > 0 {
		r.Expires = c.m.Now().Add(*expires).UTC().Truncate(time.Second)
	}
	text, r, err := c.m.Create(ctx, r)
	if err != nil {
		return err
	}
	return c.print("id   %s\nkey  %s\n", r.ID, text)
}

func (c *command) list(ctx context.Context, args []string) error {
	account := c.flags.String("account", "", "")
	asJSON := c.flags.Bool("json", false, "")
	if err := c.parse(args, 0); err != nil {
		return err
	}
	all, err := c.m.List(ctx, *account)
	if err != nil {
		return err
	}
	if *asJSON {
		e := json.NewEncoder(c.out)
		e.SetIndent("", "  ")
		return e.Encode(append([]Record{}, all...))
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ACCOUNT\tID\tPLAN\tOPERATOR\tCREATED\tEXPIRES\tLIMITS\tLABEL")
	for _, r := range all {
		expires := "never"
		if !r.Expires.IsZero() {
			expires = r.Expires.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%t\t%s\t%s\t%s\t%q\n", r.Account, r.ID, r.Plan, r.Operator, r.Created.Format(time.RFC3339), expires, (*limits)(&r.Limits), r.Label)
	}
	return w.Flush()
}

func (c *command) change(ctx context.Context, args []string) error {
	plan := c.flags.String("plan", "", "")
	var l frontend.Plan
	c.flags.Var((*limits)(&l), "limit", "")
	if err := c.parse(args, 1); err != nil {
		return err
	}
	r, err := c.m.Change(ctx, c.flags.Arg(0), *plan, l)
	if err != nil {
		return err
	}
	return c.print("%s has plan %s, limits %s\n", r.ID, r.Plan, (*limits)(&r.Limits))
}

func (c *command) rotate(ctx context.Context, args []string) error {
	grace := c.flags.Duration("grace", 0, "")
	if err := c.parse(args, 1); err != nil {
		return err
	}
	text, r, err := c.m.Rotate(ctx, c.flags.Arg(0), *grace)
	if err != nil {
		return err
	}
	return c.print("id   %s\nkey  %s\n", r.ID, text)
}

func (c *command) revoke(ctx context.Context, args []string) error {
	if err := c.parse(args, 1); err != nil {
		return err
	}
	r, err := c.m.Revoke(ctx, c.flags.Arg(0))
	if err != nil {
		return err
	}
	return c.print("%s of %s is revoked\n", r.ID, r.Account)
}

func (c *command) print(format string, args ...any) error {
	_, err := fmt.Fprintf(c.out, format, args...)
	return err
}

// limits is a flag that may come often: name=value, as in the configuration.
type limits frontend.Plan

// String implements flag.Value.
func (l *limits) String() string {
	if l == nil || *l == (limits{}) {
		return "-"
	}
	text, _ := json.Marshal((*frontend.Plan)(l)) // a struct of numbers
	parts := strings.Split(strings.ReplaceAll(strings.Trim(string(text), "{}"), `"`, ""), ",")
	slices.Sort(parts)
	return strings.ReplaceAll(strings.Join(parts, " "), ":", "=")
}

// Set implements flag.Value.
func (l *limits) Set(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return errors.New("want NAME=VALUE, as requests=5000")
	}
	d := json.NewDecoder(strings.NewReader(fmt.Sprintf("{%q:%s}", name, value)))
	d.DisallowUnknownFields()
	if err := d.Decode((*frontend.Plan)(l)); err != nil {
		return fmt.Errorf("want memory, cpu, disk, ttl, sessions, requests, timeout, fileSize or files, and a number: %w", err)
	}
	return nil
}
