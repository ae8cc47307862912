// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	buntime "github.com/buntime/buntime/sdk/go"
)

// usage of a session, as top shows it.
type line struct {
	buntime.Summary
	Usage     buntime.Usage `json:"usage"`
	Processes int           `json:"activeProcesses"`
	// CPU is in parts of a core since the last look.
	CPU float64 `json:"cpu"`
}

// order is one that top sorts by: its key, its name, and whether a comes first.
type order struct {
	key  byte
	name string
	less func(a, b line) int
}

var orders = []order{
	{'m', "memory", func(a, b line) int { return cmp.Compare(b.Usage.Memory, a.Usage.Memory) }},
	{'c', "cpu", func(a, b line) int { return cmp.Compare(b.CPU, a.CPU) }},
	{'u', "unused", func(a, b line) int { return a.LastActive.Compare(b.LastActive) }},
	{'e', "expiry", func(a, b line) int { return a.ExpiresAt.Compare(b.ExpiresAt) }},
	{'n', "newest", func(a, b line) int { return b.CreatedAt.Compare(a.CreatedAt) }},
}

func (a *app) newTop() *cobra.Command {
	var every time.Duration
	var by string
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch sessions: state, memory, CPU, how long unused",
		Long: `Watch sessions: state, memory, CPU, how long unused. The keys m, c, u, e and n sort
by memory, CPU, time unused, expiry and age; q ends it. It wakes no session, and
leaves half of the requests that the key may make to others. Where standard
output is no terminal it is one table.`,
		Example: `  buntime top --sort cpu
  buntime top -o json`,
		Args: atMost(0), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sort := slices.IndexFunc(orders, func(o order) bool { return o.name == by })
			if sort < 0 {
				return usagef("there is no order %q: say memory, cpu, unused, expiry or newest", by)
			}
			if every < time.Second {
				return usagef("--interval is 1s or more, not %v", every)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			t := &top{app: a, client: c, sort: sort, every: every, cpu: map[string]sample{}}
			_, in := terminal(a.In)
			if _, out := terminal(a.Out); in && out && a.format == formatTable {
				return t.watch(cmd.Context())
			}
			lines, err := t.look(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(map[string]any{"sessions": lines}, func() error { return t.table(lines) })
		},
	}
	cmd.Flags().DurationVarP(&every, "interval", "n", 2*time.Second, "between two looks")
	cmd.Flags().StringVar(&by, "sort", "newest", "memory, cpu, unused, expiry or newest")
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions([]string{"memory", "cpu", "unused", "expiry", "newest"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// sample is a session's CPU time when it was looked at.
type sample struct {
	at  time.Time
	cpu float64 // ms
}

type top struct {
	*app
	client   *buntime.Client
	sort     int
	every    time.Duration
	cpu      map[string]sample
	requests int // of the last look
}

// look looks at all sessions.
func (t *top) look(ctx context.Context) ([]line, error) {
	list, err := allSessions(ctx, t.client, buntime.ListOptions{})
	if err != nil {
		return nil, err
	}
	lines := make([]line, len(list))
	t.requests = 1 + len(list)/100
	for i, s := range list {
		lines[i].Summary = s.Summary
		if s.Usage != nil { // its node has told
			lines[i].Usage, lines[i].Processes = *s.Usage, *s.ActiveProcesses
		}
	}
	t.rates(lines, time.Now())
	return lines, nil
}

// rates fills in what of a core each has used since the last look.
func (t *top) rates(lines []line, now time.Time) {
	seen := make(map[string]sample, len(lines))
	for i, l := range lines {
		before, ok := t.cpu[l.SessionID]
		if d := now.Sub(before.at); ok && d > 0 && l.Usage.CPUTime >= before.cpu {
			lines[i].CPU = (l.Usage.CPUTime - before.cpu) / float64(d.Milliseconds()+1)
		}
		seen[l.SessionID] = sample{now, l.Usage.CPUTime}
	}
	t.cpu = seen
}

var topHeading = []string{"SESSION", "STATE", "MEMORY", "CPU", "DISK", "PROCESSES", "UNUSED FOR", "EXPIRES IN", "METADATA"}

func (t *top) rows(lines []line) [][]string {
	slices.SortStableFunc(lines, orders[t.sort].less)
	now := time.Now()
	rows := make([][]string, 0, len(lines))
	for _, l := range lines {
		rows = append(rows, []string{
			l.SessionID, l.State, size(l.Usage.Memory), fmt.Sprintf("%.0f%%", 100*l.CPU), size(l.Usage.Disk), fmt.Sprint(l.Processes),
			span(now.Sub(l.LastActive)), span(l.ExpiresAt.Sub(now)), short(metadataText(l.Metadata), 30),
		})
	}
	return rows
}

func (t *top) table(lines []line) error { return table(t.Out, topHeading, t.rows(lines)) }

// The screen beside the one that was there before, without a cursor; and back.
const (
	otherScreen = "\x1b[?1049h\x1b[?25l"
	firstScreen = "\x1b[?25h\x1b[?1049l"
)

// watch draws until q, or an interrupt.
func (t *top) watch(ctx context.Context) error {
	fd, _ := terminal(t.In)
	before, err := term.MakeRaw(fd)
	if err != nil {
		return fmt.Errorf("prepare the terminal: %w", err)
	}
	fmt.Fprint(t.Out, otherScreen)
	defer func() {
		fmt.Fprint(t.Out, firstScreen)
		_ = term.Restore(fd, before)
	}()
	keys := make(chan byte)
	go t.read(ctx, keys)
	var lines []line
	var failed error
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case key, ok := <-keys:
			if !ok || key == 'q' || key == 3 || key == 4 { // Ctrl-C, Ctrl-D
				return nil
			}
			if i := slices.IndexFunc(orders, func(o order) bool { return o.key == key }); i >= 0 {
				t.sort = i
			}
		case <-timer.C:
			var fresh []line
			if fresh, failed = t.look(ctx); failed == nil {
				lines = fresh
			}
			if e, ok := errors.AsType[*buntime.Error](failed); ok && (e.Status == 401 || e.Status == 403) {
				return failed
			}
			timer.Reset(max(t.every, t.rate.spacing(t.requests)))
		}
		if err := t.draw(lines, failed); err != nil {
			return err
		}
	}
}

// read passes keys on; it ends with the process, as nobody can take a read back.
func (t *top) read(ctx context.Context, keys chan<- byte) {
	defer close(keys)
	key := make([]byte, 1)
	for {
		if n, err := t.In.Read(key); n == 0 || err != nil {
			return
		}
		select {
		case keys <- key[0]:
		case <-ctx.Done():
			return
		}
	}
}

// draw fills the screen, whose lines end in raw mode with a return, too.
func (t *top) draw(lines []line, failed error) error {
	width, height := 80, 24
	if fd, ok := terminal(t.Out); ok {
		if w, h, err := term.GetSize(fd); err == nil {
			width, height = w, h
		}
	}
	var text bytes.Buffer
	if err := table(&text, topHeading, t.rows(lines)); err != nil {
		return err
	}
	head := fmt.Sprintf("%d sessions, by %s    m c u e n sort, q ends", len(lines), orders[t.sort].name)
	if failed != nil {
		head = clean(explain(failed))
	}
	var out strings.Builder
	out.WriteString("\x1b[H" + short(head, width) + "\x1b[K\r\n\x1b[K")
	for i, l := range strings.Split(strings.TrimRight(text.String(), "\n"), "\n") {
		if i+3 > height {
			break
		}
		out.WriteString("\r\n" + short(l, width) + "\x1b[K")
	}
	out.WriteString("\x1b[J")
	_, err := fmt.Fprint(t.Out, out.String())
	return err
}
