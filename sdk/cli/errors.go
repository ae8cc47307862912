// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"
)

// explain says an error to people, and what they can do.
func explain(err error) string { return err.Error() }

// isUsage tells a command line that makes no sense. What cobra finds itself has no
// type.
func isUsage(err error) bool {
	_, ok := errors.AsType[usageError](err)
	return ok || strings.HasPrefix(err.Error(), "unknown command ") || strings.HasPrefix(err.Error(), "required flag(s) ")
}

// exactly, atLeast and atMost want so many arguments.
func exactly(n int) cobra.PositionalArgs { return usage(cobra.ExactArgs(n)) }
func atLeast(n int) cobra.PositionalArgs { return usage(cobra.MinimumNArgs(n)) }
func atMost(n int) cobra.PositionalArgs  { return usage(cobra.MaximumNArgs(n)) }

func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}
