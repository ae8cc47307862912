// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"path"
	"strings"

	"github.com/buntime/buntime/frontend"
)

const (
	workspace   = "/workspace"
	longestPath = 4096 // PATH_MAX
	longestName = 255  // NAME_MAX
)

// cleanPath turns a/b, ./a/b and /workspace/a/b into a/b, and the workspace
// itself into ".". What leaves it, as far as the text tells, is refused; what
// leaves it through a symbolic link is the node's to refuse.
func cleanPath(field, p string) (string, error) {
	switch {
	case strings.IndexByte(p, 0) >= 0:
		return "", frontend.Invalid(field, "%s has a NUL byte", field)
	case len(p) > longestPath:
		return "", frontend.Invalid(field, "%s has %d bytes, more than the %d that a path may have", field, len(p), longestPath)
	}
	for name := range strings.SplitSeq(p, "/") {
		if len(name) > longestName {
			return "", frontend.Invalid(field, "a name in %s has %d bytes, more than the %d that a name may have", field, len(name), longestName)
		}
	}
	c := path.Clean(p)
	if path.IsAbs(c) {
		if c == workspace {
			return ".", nil
		}
		rest, ok := strings.CutPrefix(c, workspace+"/")
		if !ok {
			return "", outside(field, p)
		}
		return rest, nil
	}
	if c == ".." || strings.HasPrefix(c, "../") {
		return "", outside(field, p)
	}
	return c, nil
}

// cleanFile is cleanPath for what must name something inside the workspace.
func cleanFile(field, p string) (string, error) {
	if p == "" {
		return "", frontend.Invalid(field, "%s is missing", field)
	}
	c, err := cleanPath(field, p)
	if err == nil && c == "." {
		return "", frontend.Invalid(field, "%s %q is the workspace itself", field, p)
	}
	return c, err
}

func outside(field, p string) error {
	const most = 200 // of the client's own text in a message
	if len(p) > most {
		p = p[:most] + "…"
	}
	return frontend.Invalid(field, "%s %q leads out of %s", field, p, workspace)
}
