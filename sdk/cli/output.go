// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"

	"golang.org/x/term"
)

// The formats of answers.
const (
	formatTable = "table"
	formatJSON  = "json"
)

// terminal is the descriptor of a stream that is a terminal.
func terminal(stream any) (fd int, ok bool) {
	f, isFile := stream.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	return int(f.Fd()), true
}

// clean makes text harmless to show: what is no printable character, as what a
// terminal takes for a command, becomes its escape. Direction marks do, too: they
// have a line say something else than it says.
func clean(text string) string {
	if strings.IndexFunc(text, hidden) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if hidden(r) {
			q := fmt.Sprintf("%+q", r)
			b.WriteString(q[1 : len(q)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func hidden(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }

// table writes rows in columns, cleaned, below a heading.
func table(w io.Writer, heading []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{heading}, rows...) {
		for i, cell := range row {
			if cell = clean(cell); cell == "" {
				cell = "-"
			}
			if i > 0 {
				cell = "\t" + cell
			}
			fmt.Fprint(t, cell) // its errors come with Flush
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

// print writes an answer: as JSON if that is wanted, else by human.
func (a *app) print(answer any, human func() error) error {
	if a.format != formatJSON {
		return human()
	}
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(answer); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	_, err := io.WriteString(a.Out, escapeJSON(text.String()))
	return err
}

// escapeJSON escapes what a terminal may take for a command and JSON need not escape,
// which says the same: outside of strings there is no such thing.
func escapeJSON(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r != '\n' && hidden(r) {
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&b, `\u%04x`, unit)
			}
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// say writes a line to people.
func (a *app) say(format string, args ...any) error {
	_, err := fmt.Fprintln(a.Out, clean(fmt.Sprintf(format, args...)))
	return err
}
