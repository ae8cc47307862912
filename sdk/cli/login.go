// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	buntime "github.com/buntime/buntime/sdk/go"
)

func (a *app) newLogin() *cobra.Command {
	return &cobra.Command{
		Use:   "login [URL]",
		Short: "Keep the API's address and a key for later commands",
		Long: `Keep the API's address and a key for later commands, in ~/.config/buntime/config,
which nobody but you can read. The key is read from standard input, and tried
before it is kept.`,
		Example: `  buntime login https://api.example.com
  pass show buntime | buntime login https://api.example.com`,
		Args: atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			url := first(a.flagURL, a.Getenv(envURL))
			if len(args) == 1 {
				url = args[0]
			}
			if url == "" {
				return usagef("say where the API is: buntime login URL")
			}
			key, err := a.readKey(cmd.Context())
			if err != nil {
				return err
			}
			url = strings.TrimRight(url, "/")
			if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
				return usagef("%q is no http or https address", url)
			}
			if _, err := a.clientOf(url, key).List(cmd.Context(), buntime.ListOptions{Limit: 1}); err != nil {
				return fmt.Errorf("try the key: %w", err)
			}
			path, err := a.writeConfig(saved{URL: url, Key: key})
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Err, "The key works, and is kept in %s.\n", path)
			return nil
		},
	}
}

// readKey reads a key, which no terminal shows.
func (a *app) readKey(ctx context.Context) (string, error) {
	if a.flagKey != "" {
		return a.flagKey, nil
	}
	var line string
	var err error
	if f, ok := a.In.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		line, err = readHidden(ctx, f, a.Err)
	} else {
		line, err = bufio.NewReader(io.LimitReader(a.In, 1<<10)).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("read key: %w", err)
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", errors.New("no key came on standard input")
	}
	return line, nil
}

// readHidden reads a line that is not shown. An interrupt ends it, with the terminal
// as it was.
func readHidden(ctx context.Context, f *os.File, prompt io.Writer) (string, error) {
	before, err := term.GetState(int(f.Fd()))
	if err != nil {
		return "", err
	}
	fmt.Fprint(prompt, "API key: ")
	defer fmt.Fprintln(prompt)
	type read struct {
		text []byte
		err  error
	}
	done := make(chan read, 1)
	go func() { // ends with the process, if nobody types any more
		text, err := term.ReadPassword(int(f.Fd()))
		done <- read{text, err}
	}()
	select {
	case r := <-done:
		return string(r.text), r.err
	case <-ctx.Done():
		_ = term.Restore(int(f.Fd()), before)
		return "", errors.New("interrupted")
	}
}

func (a *app) newLogout() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Forget what login has kept",
		Args:  atMost(0),
		RunE: func(*cobra.Command, []string) error {
			path, err := a.configPath()
			if err != nil {
				return err
			}
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("forget the key: %w", err)
			}
			return nil
		},
	}
}
