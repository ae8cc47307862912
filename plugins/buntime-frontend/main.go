// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Command buntime-frontend serves the HTTP API and the previews of sessions.
// With the argument new-key it makes an API key for the configuration file instead, with
// keys it manages those in Consul, with backup and restore it copies all sessions, and with
// -check it says what its configuration is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/buntime/buntime/driver/snapshot/backend"
	"github.com/buntime/buntime/driver/snapshot/store"
	"github.com/buntime/buntime/frontend/audit"
	"github.com/buntime/buntime/frontend/backup"
	"github.com/buntime/buntime/frontend/consul"
	"github.com/buntime/buntime/frontend/keys"
	"github.com/buntime/buntime/frontend/logging"
	"github.com/buntime/buntime/frontend/server"
	"github.com/buntime/buntime/frontend/settings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "buntime-frontend:", err)
		os.Exit(1)
	}
}

// version is set when packages are built.
var version = "(development)"

const usage = `usage:
  buntime-frontend [-config FILE] [-SETTING VALUE]...            serve
  buntime-frontend [-config FILE] [-SETTING VALUE]... -check     check the configuration, and print what would be used
  buntime-frontend -example                                      print a configuration with all settings and their defaults
  buntime-frontend -version
  buntime-frontend new-key                                       print a new API key, and its hash for the configuration
  buntime-frontend [-config FILE] [-SETTING VALUE]... keys ...   manage the API keys in Consul, as follows

` + keys.Usage + `  buntime-frontend [-config FILE] [-SETTING VALUE]... backup DIR    copy all sessions, keys and receipts to a directory
  buntime-frontend [-config FILE] [-SETTING VALUE]... restore DIR   bring them back; no front-end may run, nor Consul have sessions

Settings come from flags, from the environment and from the file, in this order: pool.max_age of the file is
BUNTIME_FRONTEND_POOL_MAX_AGE and -pool-max-age. Secrets can be in files: -node-secret-file FILE.
`

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("buntime-frontend", flag.ContinueOnError)
	path := flags.String("config", "", "")
	check := flags.Bool("check", false, "")
	showVersion := flags.Bool("version", false, "")
	example := flags.Bool("example", false, "")
	given := settings.Register(flags, new(server.Config))
	switch err := given.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		_, err := io.WriteString(out, usage)
		return err
	case err != nil:
		return err
	}
	switch flags.Arg(0) {
	case "", "keys":
	case "backup", "restore":
		if flags.NArg() != 2 {
			return fmt.Errorf("%s: name one directory", flags.Arg(0))
		}
	case "new-key":
		return newKey(out)
	default:
		return fmt.Errorf("there is no %q; -help says what there is", flags.Arg(0))
	}
	if *showVersion {
		_, err := fmt.Fprintln(out, "buntime-frontend", version)
		return err
	}
	if *example {
		_, err := out.Write(server.Example)
		return err
	}
	config, set, err := server.Load(*path, os.Environ(), given)
	switch {
	case err != nil:
		return err
	case *check:
		return set.Print(out)
	case flags.Arg(0) == "keys":
		return manageKeys(config, flags.Args()[1:], out)
	case flags.NArg() > 0:
		return copySessions(config, flags.Arg(0), flags.Arg(1), out)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer context.AfterFunc(ctx, stop)() // a second signal ends it at once
	log, err := logging.New(config.Log, os.Stderr)
	if err != nil {
		return err
	}
	return server.Run(ctx, *config, log)
}

// keysTimeout bounds what takes some milliseconds.
const keysTimeout = 30 * time.Second

// manageKeys runs a command of package keys on the front-ends' Consul.
func manageKeys(config *server.Config, args []string, out io.Writer) error {
	store, err := consul.NewStore(config.Consul)
	if err != nil {
		return err
	}
	defer store.Close()
	ctx, cancel := context.WithTimeoutCause(context.Background(), keysTimeout, fmt.Errorf("no answer in %v", keysTimeout))
	defer cancel()
	log, err := auditLog(config.Audit)
	if err != nil {
		return err
	}
	manager := keys.NewManager(store)
	manager.Did = func(what string, r keys.Record, err error) {
		e := audit.Event{Action: "key." + what, Outcome: "ok", By: user(), Account: r.Account, Subject: r.ID}
		if err != nil {
			e.Outcome = "error"
		}
		log.Record(e)
	}
	return errors.Join(keys.Command(ctx, manager, args, out), log.Close())
}

// auditLog is that of the front-ends, which this process adds to. What they print, this
// one does beside the command's own output.
func auditLog(path string) (*audit.Log, error) {
	lost, failed := func() {}, func(err error) { fmt.Fprintln(os.Stderr, "buntime-frontend:", err) }
	if path == "stdout" {
		return audit.New(os.Stderr, lost, failed), nil
	}
	return audit.Open(path, lost, failed)
}

// user is who has run the command, before sudo.
func user() string {
	for _, name := range []string{"SUDO_USER", "USER", "LOGNAME"} {
		if who := os.Getenv(name); who != "" {
			return who
		}
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

// copySessions backs up, or restores.
func copySessions(config *server.Config, what, dir string, out io.Writer) error {
	if !config.Store.Named() {
		return errors.New(what + ": name the nodes' store in the configuration, store.dir or store.swift")
	}
	records, err := consul.NewStore(config.Consul)
	if err != nil {
		return err
	}
	defer records.Close()
	objects, closer, err := backend.Open(config.Store)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do := map[string]func(context.Context, *consul.Store, store.Store, string) (backup.Result, error){
		"backup": backup.Save, "restore": backup.Load,
	}[what]
	r, err := do(ctx, records, objects, dir)
	if err := errors.Join(err, closer()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	fmt.Fprintf(out, "%s: %d sessions, %d copied with %d bytes\n", what, r.Sessions, r.Copied, r.Bytes)
	for _, id := range r.Without {
		fmt.Fprintf(out, "not in it, as nothing of it is stored yet: %s\n", id)
	}
	return nil
}

// newKey prints a key, which is kept nowhere, and what the configuration has of it.
func newKey(out io.Writer) error {
	key := keys.New()
	_, err := fmt.Fprintf(out, "key   %s\nhash  %s\n", key, keys.Hash(key))
	return err
}
