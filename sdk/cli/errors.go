// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	buntime "github.com/buntime/buntime/sdk/go"
)

// advice is what people can do about an error of the API.
var advice = map[string]string{
	"unauthorized":           "run buntime login, or see that " + envKey + " is a key of that address",
	"session_not_found":      "buntime sessions list has those that there are",
	"session_busy":           "--force interrupts what runs",
	"session_limit_exceeded": "buntime sessions delete makes room",
	"execution_not_found":    "buntime logs --list has those that there are",
	"disk_full":              "delete files, or make a session with more --disk",
	buntime.CodeConnection:   "see that the address is right, and the API reachable from here",
}

// explain says an error to people, and what they can do.
func explain(err error) string {
	text := err.Error()
	e, ok := errors.AsType[*buntime.Error](err)
	if !ok {
		return text
	}
	if more := advice[e.Code]; more != "" {
		text += "; " + more
	}
	if e.Status >= 500 && e.RequestID != "" {
		text += " (request " + e.RequestID + ")"
	}
	return text
}

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
