// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"maps"
	"slices"

	"github.com/danielgtaylor/huma/v2"
)

// everyHeader are the headers of every answer; lateHeader is of those that say when to
// try again.
var everyHeader = map[string]*huma.Header{
	"X-RateLimit-Limit":     {Description: "How many requests this key may make a minute.", Schema: &huma.Schema{Type: huma.TypeInteger}},
	"X-RateLimit-Remaining": {Description: "How many of them are left.", Schema: &huma.Schema{Type: huma.TypeInteger}},
	"X-RateLimit-Reset":     {Description: "When the minute is over, in Unix seconds.", Schema: &huma.Schema{Type: huma.TypeInteger}},
	"X-Request-Id":          {Description: "Names the request in the operator's logs.", Schema: &huma.Schema{Type: huma.TypeString}},
	"Server-Timing":         {Description: "Where the milliseconds went until the head of the answer, as browsers' tools read it: auth, kv, queue, register, claim, wake, moved, node, info, deregister, total, and the node's thaw and exec. An answer of unknown length, such as a stream, has it again as a trailer, with exec and the total until its end.", Schema: &huma.Schema{Type: huma.TypeString}},
}

const lateHeader = "Retry-After"

// lateStatuses are those whose answers may say when to try again.
var lateStatuses = []string{"429", "503"}

// documentHeaders puts the headers that are common to all operations in the OpenAPI
// document, once, and refers to them from each answer.
func documentHeaders(doc *huma.OpenAPI) {
	doc.Components.Headers = map[string]*huma.Header{
		lateHeader: {Description: "After how many seconds to try again; without it, that does not help.", Schema: &huma.Schema{Type: huma.TypeInteger}},
	}
	maps.Copy(doc.Components.Headers, everyHeader)
	for _, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Delete} {
			if op == nil {
				continue
			}
			for status, r := range op.Responses {
				headers := map[string]*huma.Header{}
				for name := range everyHeader {
					headers[name] = referTo(name)
				}
				if slices.Contains(lateStatuses, status) {
					headers[lateHeader] = referTo(lateHeader)
				}
				maps.Copy(headers, r.Headers)
				r.Headers = headers
			}
		}
	}
}

func referTo(header string) *huma.Header { return &huma.Header{Ref: "#/components/headers/" + header} }
