// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package buntime

import (
	"bufio"
	"bytes"
	"io"
	"iter"
	"strings"
)

// serverEvent is a server-sent event.
type serverEvent struct{ name, id, data string }

// longestEvent is more than an event has: a result with both streams, as JSON.
const longestEvent = 64 << 20

// serverEvents reads the server-sent events of a body. One that breaks off is none.
// alive is called with each line, comments included.
func serverEvents(body io.Reader, alive func()) iter.Seq2[serverEvent, error] {
	return func(yield func(serverEvent, error) bool) {
		lines := bufio.NewScanner(body)
		lines.Buffer(nil, longestEvent)
		event, begun := serverEvent{name: "message"}, false
		for lines.Scan() {
			alive()
			line := lines.Bytes()
			if len(line) == 0 {
				if begun && !yield(event, nil) {
					return
				}
				event, begun = serverEvent{name: "message"}, false
				continue
			}
			field, value, _ := bytes.Cut(line, []byte(":"))
			text := string(bytes.TrimPrefix(value, []byte(" ")))
			switch string(field) {
			case "event":
				event.name = text
			case "id":
				if !strings.Contains(text, "\x00") {
					event.id = text
				}
			case "data":
				if begun {
					event.data += "\n"
				}
				event.data += text
				begun = true
			}
		}
		if err := lines.Err(); err != nil {
			yield(serverEvent{}, err)
		}
	}
}
