// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Command buntime-frontend serves the HTTP API and the previews of sessions.
// With the argument new-key it makes an API key for the configuration file instead, and
// with keys it manages those in Consul.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/buntime/buntime/frontend/consul"
	"github.com/buntime/buntime/frontend/keys"
	"github.com/buntime/buntime/frontend/server"
)

func main() {
	path := flag.String("config", "", "configuration `file` (JSON)")
	flag.Usage = usage
	flag.Parse()
	switch {
	case flag.NArg() == 1 && flag.Arg(0) == "new-key":
		newKey()
		return
	case flag.Arg(0) == "keys":
		if err := manageKeys(*path, flag.Args()[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "buntime-frontend:", err)
			os.Exit(1)
		}
		return
	case flag.NArg() > 0:
		usage()
		os.Exit(2)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(*path, log); err != nil {
		fmt.Fprintln(os.Stderr, "buntime-frontend:", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprint(os.Stderr, `usage:
  buntime-frontend -config file             serve
  buntime-frontend new-key                  print a new API key, and its hash for the configuration
  buntime-frontend -config file keys ...    manage the API keys in Consul, as follows

`+keys.Usage)
}

// keysTimeout bounds what takes some milliseconds.
const keysTimeout = 30 * time.Second

// manageKeys runs a command of package keys on the front-ends' Consul.
func manageKeys(path string, args []string) error {
	config, err := server.ReadConfig(path)
	if err != nil {
		return err
	}
	store, err := consul.NewStore(config.Consul)
	if err != nil {
		return err
	}
	defer store.Close()
	ctx, cancel := context.WithTimeoutCause(context.Background(), keysTimeout, fmt.Errorf("no answer in %v", keysTimeout))
	defer cancel()
	return keys.Command(ctx, keys.NewManager(store), args, os.Stdout)
}

// newKey prints a key, which is kept nowhere, and what the configuration has of it.
func newKey() {
	key := keys.New()
	fmt.Printf("key   %s\nhash  %s\n", key, keys.Hash(key))
}

func run(path string, log *slog.Logger) error {
	config, err := server.ReadConfig(path)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return server.Run(ctx, config, log)
}
