// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Command buntime uses sessions from a terminal.
package main

import (
	"os"

	"github.com/buntime/buntime/sdk/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], cli.Std{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv}))
}
