// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Command buntime-frontend serves the HTTP API and the previews of sessions.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/buntime/buntime/frontend/server"
)

func main() {
	path := flag.String("config", "", "configuration `file` (JSON)")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(*path, log); err != nil {
		fmt.Fprintln(os.Stderr, "buntime-frontend:", err)
		os.Exit(1)
	}
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
