// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package door

import "net/http"

// RequestHeader names a request in logs and in the audit log: a client's own name for it,
// or the front-end's.
const RequestHeader = "X-Request-Id"

// longestRequestID is in bytes.
const longestRequestID = 64

// RequestID is what a request calls itself, if that may stand in a log as it is: one
// header, of letters, digits, and . _ - in between. Otherwise it is "".
func RequestID(h http.Header) string {
	values := h[RequestHeader]
	if len(values) != 1 || !ValidRequestID(values[0]) {
		return ""
	}
	return values[0]
}

// ValidRequestID says whether a text may be a request's id.
func ValidRequestID(id string) bool {
	if id == "" || len(id) > longestRequestID || HasKey([]byte(id)) {
		return false
	}
	for _, c := range []byte(id) {
		if !nameable(c) {
			return false
		}
	}
	return true
}

func nameable(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
}
