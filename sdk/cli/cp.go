// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	buntime "github.com/buntime/buntime/sdk/go"
)

// place is one side of a copy: a path in a session or, without one, of here.
type place struct{ session, path string }

// parsePlace reads SESSION:PATH or PATH. A path of here with a colon in it begins with
// ./ or /.
func parsePlace(text string) place {
	session, inside, ok := strings.Cut(text, ":")
	if !ok || session == "" || strings.ContainsAny(session, `/\.`) {
		return place{path: text}
	}
	return place{session, inside}
}

// copied is what -o json says of a copy.
type copied struct {
	Path  string `json:"path"`
	Files int64  `json:"files"`
	Size  int64  `json:"size"`
}

func (a *app) newCp() *cobra.Command {
	return &cobra.Command{
		Use:   "cp FROM TO",
		Short: "Copy files and folders into a session and out of it",
		Long: `Copy files and folders into a session and out of it. The session's side is
SESSION:PATH, with a path in the workspace; - is standard input or output, of
a folder as a tar. As with cp, what is copied to a folder that is there comes
to lie in it; FOLDER/. is what is in a folder.

What comes out of a session stays below the folder it is copied to: names and
links that lead out of it, and what is neither file nor folder nor link, are
left out and named.`,
		Example: `  buntime cp data.csv ses_abc:input/
  buntime cp src/. ses_abc:src
  buntime cp ses_abc:out ./results
  buntime cp ses_abc:report.md - | less`,
		Args: exactly(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if strings.HasPrefix(word, "ses_") {
				return a.completeSession(true, ":")(cmd, args, word)
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			from, to := parsePlace(args[0]), parsePlace(args[1])
			if (from.session == "") == (to.session == "") {
				return usagef("one of FROM and TO is SESSION:PATH, and the other is not")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			var out copied
			if to.session != "" {
				out, err = a.copyIn(cmd.Context(), c, from.path, to)
			} else {
				out, err = a.copyOut(cmd.Context(), c, from, to.path)
			}
			if err != nil || to.path == "-" {
				return err
			}
			return a.print(out, func() error { return nil })
		},
	}
}

// isDir says whether a path is a directory of a session.
func isDir(ctx context.Context, c *buntime.Client, p place) (bool, error) {
	if p.path == "" || path.Clean(p.path) == "." || path.Clean(p.path) == "/workspace" {
		_, err := c.Info(ctx, p.session)
		return true, err
	}
	_, err := c.ListFiles(ctx, p.session, p.path, 1, 0)
	switch {
	case err == nil:
		return true, nil
	case buntime.Is(err, "file_not_found"), buntime.Is(err, "invalid_request"):
		return false, nil
	}
	return false, err
}

// copyIn copies a file or folder of here into a session.
func (a *app) copyIn(ctx context.Context, c *buntime.Client, from string, to place) (out copied, err error) {
	into, err := isDir(ctx, c, to)
	if err != nil {
		return out, err
	}
	into = into || strings.HasSuffix(to.path, "/")
	dir, name := to.path, filepath.Base(from)
	var p *packed
	st, statErr := os.Stat(from)
	switch {
	case from == "-" && into:
		return out, usagef("name the file that standard input is to be, not the folder %s", to.path)
	case from != "-" && statErr != nil:
		return out, fmt.Errorf("copy: %w", statErr)
	case from == "-" || !st.IsDir():
		if !into {
			dir, name = path.Dir(to.path), path.Base(to.path)
		}
		if from == "-" {
			p, err = packInput(a.In, name)
		} else {
			p, err = packFile(from, name)
		}
	default:
		if into && !strings.HasSuffix(from, "/.") && from != "." {
			absolute, aerr := filepath.Abs(from)
			if aerr != nil {
				return out, aerr
			}
			dir = path.Join(to.path, filepath.Base(absolute))
		}
		p, err = packTree(from, "", nil)
	}
	if err != nil {
		return out, err
	}
	defer p.close()
	done, err := a.upload(ctx, c, to.session, dir, p)
	if err != nil {
		return out, err
	}
	return copied{done.Path, done.Files, done.Size}, nil
}

// copyOut copies a file or folder of a session to here.
func (a *app) copyOut(ctx context.Context, c *buntime.Client, from place, to string) (out copied, err error) {
	folder, err := isDir(ctx, c, from)
	if err != nil {
		return out, err
	}
	var done atomic.Int64
	switch {
	case !folder:
		return a.copyFileOut(ctx, c, from, to)
	case to == "-":
		r, err := c.Pack(ctx, from.session, from.path)
		if err != nil {
			return out, err
		}
		defer r.Close()
		_, err = io.Copy(a.Out, r)
		return out, writingOr(err)
	}
	if st, err := os.Stat(to); err == nil && st.IsDir() && !strings.HasSuffix(from.path, "/.") && from.path != "" && from.path != "." {
		name, err := baseName(from.path)
		if err != nil {
			return out, err
		}
		to = filepath.Join(to, name)
	}
	info, err := c.Info(ctx, from.session)
	if err != nil {
		return out, err
	}
	r, err := c.Pack(ctx, from.session, from.path)
	if err != nil {
		return out, err
	}
	defer r.Close()
	if err := os.MkdirAll(to, 0o755); err != nil {
		return out, fmt.Errorf("copy: %w", err)
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return out, fmt.Errorf("copy: %w", err)
	}
	defer root.Close()
	u := unpacker{root: root, room: int64(info.ResourceLimits.Disk) << 20, left: maxUnpacked, refused: leftOut(a.Err)}
	end := a.progress("Downloading", &done, 0)
	err = u.unpack(counted{r, &done})
	end()
	if err == nil && u.skipped > 0 {
		err = fmt.Errorf("the copy is not whole: %d entries were left out", u.skipped)
	}
	return copied{to, u.files, u.size}, err
}

// copyFileOut copies one file.
func (a *app) copyFileOut(ctx context.Context, c *buntime.Client, from place, to string) (out copied, err error) {
	name, err := baseName(from.path)
	if err != nil {
		return out, err
	}
	r, length, err := c.OpenFile(ctx, from.session, from.path)
	if err != nil {
		return out, err
	}
	defer r.Close()
	var done atomic.Int64
	if to == "-" {
		_, err = io.Copy(a.Out, r)
		return out, writingOr(err)
	}
	if st, err := os.Stat(to); err == nil && st.IsDir() || strings.HasSuffix(to, "/") {
		to = filepath.Join(to, name)
	}
	// Beside it, so that there is the old one or all of the new one.
	f, err := os.CreateTemp(filepath.Dir(to), ".buntime-*")
	if err != nil {
		return out, fmt.Errorf("copy: %w", err)
	}
	end := a.progress("Downloading", &done, length)
	n, err := io.Copy(f, counted{r, &done})
	end()
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), to)
	}
	if err != nil {
		return out, errors.Join(fmt.Errorf("copy: %w", err), os.Remove(f.Name()))
	}
	return copied{to, 1, n}, nil
}
