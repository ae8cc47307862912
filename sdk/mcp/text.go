// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package mcp

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	buntime "github.com/buntime/buntime/sdk/go"
)

// longestText is how much of each stream a model gets, in bytes: some 8,000 tokens.
const longestText = 30_000

// cut takes the middle out of a text that is too long for a model. more is how much is
// missing there already.
func cut(text string, more int64, where string) (short string, left int64) {
	if len(text) <= longestText {
		return text, more
	}
	head, tail := text[:longestText/2], text[len(text)-longestText/2:]
	for !utf8.ValidString(head) && len(head) > longestText/2-utf8.UTFMax { // inside of a character
		head = head[:len(head)-1]
	}
	for len(tail) > 0 && !utf8.RuneStart(tail[0]) {
		tail = tail[1:]
	}
	left = int64(len(text)-len(head)-len(tail)) + more
	return fmt.Sprintf("%s\n[… %d bytes are left out here; read_file %s with offset and length has them …]\n%s", head, left, where, tail), left
}

// journal is where a session keeps an execution's output.
func journal(execution, stream string) string {
	return path.Join(".buntime/executions", execution, stream)
}

// render is what an execution came to, for a model.
func render(r *buntime.Result, session string) (text string, out RunResult) {
	out = RunResult{
		SessionID: session, ExitCode: r.ExitCode, Reason: r.Reason, Background: r.Background, PID: r.PID,
		ExecutionID: r.ExecutionID, ExecutionTime: r.ExecutionTime, MemoryUsed: r.MemoryUsed, FilesWritten: r.FilesWritten,
	}
	out.Stdout, out.LeftOut.Stdout = cut(r.Stdout, r.Truncated.Stdout, journal(r.ExecutionID, "stdout"))
	out.Stderr, out.LeftOut.Stderr = cut(r.Stderr, r.Truncated.Stderr, journal(r.ExecutionID, "stderr"))
	var b strings.Builder
	piece(&b, "", out.Stdout)
	piece(&b, "[stderr]\n", out.Stderr)
	fmt.Fprintf(&b, "[%s, %s", outcome(r), duration(r.ExecutionTime))
	if len(r.FilesWritten) > 0 {
		fmt.Fprintf(&b, "; files written: %s", list(r.FilesWritten, 20))
	}
	b.WriteString("]")
	if hint := clue(r); hint != "" {
		b.WriteString("\nHint: " + hint)
	}
	return b.String(), out
}

func piece(b *strings.Builder, head, text string) {
	if text == "" {
		return
	}
	b.WriteString(head + text)
	if !strings.HasSuffix(text, "\n") {
		b.WriteString("\n")
	}
}

func outcome(r *buntime.Result) string {
	switch {
	case r.Background:
		return fmt.Sprintf("it listens and keeps running in the background as pid %d", r.PID)
	case r.Reason == "signal" || r.Reason == "killed" || r.Reason == "interrupted":
		return fmt.Sprintf("exit code %d, %s", r.ExitCode, r.Reason)
	}
	return fmt.Sprintf("exit code %d", r.ExitCode)
}

func duration(ms float64) string {
	if ms < 1000 {
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f s", ms/1000)
}

func list(names []string, most int) string {
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// clue is what helps with a failure that models meet often.
func clue(r *buntime.Result) string {
	if r.ExitCode == 0 {
		return ""
	}
	has := func(texts ...string) bool {
		for _, t := range texts {
			if strings.Contains(r.Stderr, t) || strings.Contains(r.Stdout, t) {
				return true
			}
		}
		return false
	}
	switch {
	case has("ENOSPC", "No space left on device"):
		return "the session's disk is full; delete what is not needed (`du -sh .[!.]* * | sort -h`)."
	case has("Cannot find package", "Could not resolve package", "failed to resolve", "404 Not Found"):
		return "a package was not found: check its name on npm; `bun add <name>` with run_command says more."
	case has("Cannot find module"):
		return "a file or package was not found: paths are relative to the working directory (/workspace); list_files shows what there is."
	case has("EADDRINUSE"):
		return "the port is in use by a process of the session; session_info shows which, kill_processes ends it."
	case r.ExitCode == 127:
		return "the sandbox has no such command. It has bun, bunx, node (Bun's) and a small set of Unix tools; bunx runs programs from npm."
	}
	return ""
}
