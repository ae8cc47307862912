// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
)

//go:embed report.html.tmpl
var pageText string

var page = template.Must(template.New("report").Parse(pageText))

// HTML writes the report as a page.
func (r *Report) HTML(w io.Writer) error {
	if err := page.Execute(w, r); err != nil {
		return fmt.Errorf("write page of report: %w", err)
	}
	return nil
}
