// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Command buntime-frontend serves the HTTP API and the previews of sessions.
// With the argument new-key it makes an API key instead.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/buntime/buntime/frontend/api"
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
  buntime-frontend -config file   serve
  buntime-frontend new-key        print a new API key, and its hash for the configuration
`)
}

// newKey prints a key, which is kept nowhere, and what the configuration has of it.
func newKey() {
	key := api.NewKey()
	fmt.Printf("key   %s\nhash  %s\n", key, api.HashKey(key))
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
