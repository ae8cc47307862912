// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package mcp

import (
	"errors"
	"fmt"
	"math"
	"net/http"

	buntime "github.com/buntime/buntime/sdk/go"
)

// told is an error whose text is for a model already.
type told string

func (t told) Error() string { return string(t) }

// toldf says what happened and why, and what to do.
func toldf(todo, format string, args ...any) error {
	return told(fmt.Sprintf(format, args...) + "\nWhat to do: " + todo)
}

// explain says an error to a model. own: the session was not named in the call.
func explain(err error, own bool) error {
	if t, ok := errors.AsType[told](err); ok {
		return t
	}
	e, ok := errors.AsType[*buntime.Error](err)
	if !ok {
		return err
	}
	text := fmt.Sprintf("%s (%s)", e.Message, e.Code)
	if e.Details["done"] == "unknown" {
		text += ". It may have been done, or be done yet"
	}
	return told(text + "\nWhat to do: " + advice(e, own))
}

// advice is what to do about an error of the API.
func advice(e *buntime.Error, own bool) string {
	switch e.Code {
	case "session_not_found":
		if own {
			return "the session of this conversation has expired or was deleted, and its files and processes are gone. Call again: a new, empty session is made."
		}
		return "check the sessionId, or leave it out to use the session of this conversation."
	case "file_not_found":
		return "look with list_files; paths are relative to /workspace."
	case "execution_not_found":
		return "run it again; only the newest executions are remembered."
	case "file_too_large":
		return "write it in smaller files, or have code in the session make or download it."
	case "disk_full":
		return "free space: run_command `du -sh .[!.]* * | sort -h` shows what is large; delete what is not needed (node_modules can be installed again)."
	case "memory_limit_exceeded":
		return "work on less at a time (stream files, process in pieces), or stop other processes with kill_processes. Files and other processes of the session are still there."
	case "execution_timeout", "request_timeout":
		return "look at session_info and list_files whether it was done, then call again; give long work a larger timeout or run it in the background (`cmd > log.txt 2>&1 &`)."
	case "session_limit_exceeded":
		return "the account has as many sessions as its plan allows. Pass the sessionId of one that exists, or ask the user to delete one."
	case "rate_limit_exceeded":
		if e.RetryAfter > 0 {
			return fmt.Sprintf("wait %.0f seconds and call again; make fewer, larger calls.", math.Ceil(e.RetryAfter.Seconds()))
		}
		return "make fewer, larger calls."
	case "unauthorized":
		return "ask the user to set a valid API key in the configuration of this MCP server."
	case "forbidden":
		return "the account's plan does not allow this; ask the user."
	case "invalid_request":
		if field, ok := e.Details["field"].(string); ok {
			return fmt.Sprintf("correct %s and call again.", field)
		}
		return "correct the arguments and call again."
	case "session_busy":
		return "wait until what runs in the session is done, or end it with kill_processes."
	case "service_unavailable", buntime.CodeConnection, buntime.CodeClientTimeout:
		if e.Details["done"] == "no" {
			return "nothing was done; call again in a few seconds."
		}
		return "look whether it was done (session_info, list_files) and call again in a few seconds if it was not."
	}
	if e.Status >= http.StatusInternalServerError {
		return "call again; if it stays so, tell the user" + request(e) + "."
	}
	return "tell the user" + request(e) + "."
}

// request names the request to whoever runs the service.
func request(e *buntime.Error) string {
	if e.RequestID == "" {
		return ""
	}
	return " that it was request " + e.RequestID
}
