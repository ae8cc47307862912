// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import (
	"bytes"

	"github.com/buntime/buntime/driver/door"
)

// Kinds is a set of kinds of header lines, by what a hop does with them.
type Kinds uint16

// The kinds.
const (
	// Plain is what no hop has a say in, with Host and the body's length.
	Plain Kinds = 1 << iota
	// Hop is for the connection alone.
	Hop
	// Token is door.TokenHeader.
	Token
	// ForwardedFor, ForwardedHost and ForwardedProto are X-Forwarded-…, Forwarded the
	// field of RFC 7239, and Said what else proxies say of a client.
	ForwardedFor
	ForwardedHost
	ForwardedProto
	Forwarded
	Said
)

// line is one line of a head, with its line end.
type line struct {
	start, value, end int // where it and its value begin, and the next line
	kind              Kinds
}

// Request is the head of a plain request.
type Request struct {
	Method string
	Host   string
	in     []byte
	lines  []line // without the request line
	target []byte
	head   int // where the head ends
	length int // of the body
}

// Value is the first line of a kind, or "".
func (r *Request) Value(k Kinds) string {
	for _, l := range r.lines {
		if l.kind == k {
			return string(r.value(l))
		}
	}
	return ""
}

// Is says whether there is one line of a kind and it has a value. It takes as long for
// any value of the length of want if equal does.
func (r *Request) Is(k Kinds, equal func(value []byte) bool) bool {
	n, is := 0, false
	for _, l := range r.lines {
		if l.kind == k {
			n++
			is = equal(r.value(l))
		}
	}
	return n == 1 && is
}

// Values are all lines of a kind.
func (r *Request) Values(k Kinds) []string {
	var all []string
	for _, l := range r.lines {
		if l.kind == k {
			all = append(all, string(r.value(l)))
		}
	}
	return all
}

// Has says whether there is a line of a kind.
func (r *Request) Has(k Kinds) bool {
	for _, l := range r.lines {
		if l.kind == k {
			return true
		}
	}
	return false
}

func (r *Request) value(l line) []byte { return bytes.Trim(r.in[l.value:l.end-2], " \t") }

// write appends the request with the kinds of lines that are kept and some more, and
// with its body.
func (r *Request) write(out []byte, keep Kinds, more ...[]byte) []byte {
	start := 0
	for _, l := range r.lines { // what is kept is copied in runs
		if l.kind&keep == 0 {
			out = append(out, r.in[start:l.start]...)
			start = l.end
		}
	}
	out = append(out, r.in[start:r.head-2]...)
	for _, lines := range more {
		out = append(out, lines...)
	}
	return append(out, r.in[r.head-2:r.head+r.length]...)
}

// verdict is what a head is.
type verdict int

const (
	incomplete verdict = iota
	plainHead
	// otherHead is net/http's, and ends, with its body, where Request says.
	otherHead
	// strange is net/http's with all that follows.
	strange
)

// The bytes that there may be: in a name (RFC 9110, 5.6.2), in a value, and in a target
// that is passed on as it is (RFC 3986 has no others).
var nameByte, valueByte, targetByte [256]bool

// lower is a name's byte as the least careful of apps reads it (see door.Inward).
var lower [256]byte

func init() {
	for c := range 256 {
		b := byte(c)
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
		nameByte[b] = letter || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), b) >= 0
		valueByte[b] = b >= ' ' && b != 0x7f || b == '\t'
		targetByte[b] = letter || bytes.IndexByte([]byte("-._~!$&'()*+,;=:@/?%"), b) >= 0
		lower[b] = b
		switch {
		case b >= 'A' && b <= 'Z':
			lower[b] = b + 'a' - 'A'
		case b == '_':
			lower[b] = '-'
		}
	}
}

var headEnd = []byte("\r\n\r\n")

// parseRequest reads the head of a request from the start of in. limit is how long it may
// be, lines is room for them.
func parseRequest(in []byte, limit int, r *Request) verdict {
	if len(in) == 0 {
		return incomplete
	}
	r.in, r.lines, r.length = in, r.lines[:0], 0
	i := bytes.Index(in, headEnd)
	if i < 0 {
		return unfinished(in, limit)
	}
	r.head = i + len(headEnd)
	if r.head > limit {
		return strange
	}
	start := bytes.IndexByte(in, '\r') + 2
	if !r.requestLine(in[:start-2]) || in[start-1] != '\n' {
		return strange
	}
	end := r.head - 2
	other, length, hosts := false, -1, 0
	for start < end {
		l, name, ok := readLine(in[:end], start)
		if !ok || len(r.lines) == door.MaxFields {
			return strange
		}
		start = l.end
		l.kind = Plain
		value := in[l.value : l.end-2]
		switch {
		case bytes.EqualFold(name, hostName):
			if hosts++; !r.host(bytes.Trim(value, " \t")) {
				return strange
			}
		case bytes.EqualFold(name, lengthName):
			n, ok := number(bytes.Trim(value, " \t"))
			if !ok || length >= 0 {
				return strange
			}
			length = n
		default:
			var what effect
			if l.kind, what = field(name, value); what == unknownEnd {
				return strange
			} else if what == notPlain {
				other = true
			}
		}
		r.lines = append(r.lines, l)
	}
	if hosts != 1 {
		return strange
	}
	r.length = max(length, 0)
	if other {
		return otherHead
	}
	return plainHead
}

// unfinished says what a head is whose end has not come. What net/http refuses at once
// is not waited for.
func unfinished(in []byte, limit int) verdict {
	if len(in) >= limit || in[0] < 'A' || in[0] > 'Z' {
		return strange
	}
	for rest := in; ; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			return incomplete
		}
		if i == 0 || rest[i-1] != '\r' {
			return strange
		}
		rest = rest[i+1:]
	}
}

var (
	hostName   = []byte("host")
	lengthName = []byte("content-length")
	version    = []byte(" HTTP/1.1")
)

// requestLine takes the methods that nearly all requests have.
func (r *Request) requestLine(text []byte) bool {
	text, ok := bytes.CutSuffix(text, version)
	if !ok {
		return false
	}
	method, target, ok := bytes.Cut(text, []byte(" "))
	if !ok || len(target) == 0 || target[0] != '/' {
		return false
	}
	for i, b := range target {
		if !targetByte[b] || b == '%' && (i+2 >= len(target) || !hex(target[i+1]) || !hex(target[i+2])) {
			return false
		}
	}
	r.target = target
	switch string(method) {
	case "GET":
		r.Method = "GET"
	case "HEAD":
		r.Method = "HEAD"
	case "POST":
		r.Method = "POST"
	case "PUT":
		r.Method = "PUT"
	case "PATCH":
		r.Method = "PATCH"
	case "DELETE":
		r.Method = "DELETE"
	case "OPTIONS":
		r.Method = "OPTIONS"
	default:
		return false
	}
	return true
}

func hex(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F'
}

// host takes a Host without what no host has.
func (r *Request) host(value []byte) bool {
	for _, b := range value {
		if (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') && (b < '0' || b > '9') && b != '.' && b != '-' && b != '_' && b != ':' && b != '[' && b != ']' {
			return false
		}
	}
	if string(value) != r.Host { // that of the request before, as a rule
		r.Host = string(value)
	}
	return len(value) > 0
}

// readLine reads the line that begins at start.
func readLine(in []byte, start int) (l line, name []byte, ok bool) {
	i := start
	for i < len(in) && nameByte[in[i]] {
		i++
	}
	if i == start || i == len(in) || in[i] != ':' {
		return l, nil, false
	}
	name = in[start:i]
	l = line{start: start, value: i + 1}
	for i++; i < len(in) && valueByte[in[i]]; {
		i++
	}
	if i+1 >= len(in) || in[i] != '\r' || in[i+1] != '\n' {
		return l, nil, false
	}
	l.end = i + 2
	return l, name, true
}

// number reads what Content-Length may be.
func number(text []byte) (int, bool) {
	if len(text) == 0 || len(text) > 15 {
		return 0, false
	}
	n := 0
	for _, b := range text {
		if b < '0' || b > '9' {
			return 0, false
		}
		n = 10*n + int(b-'0')
	}
	return n, true
}

// effect is what a line has on the request.
type effect int

const (
	none effect = iota
	notPlain
	unknownEnd // of the body, or of HTTP
)

// longest is that of the names that mean something; those of X-Forwarded-… may be longer.
const longest = 24

// field says what a line of a request is, but for Host and Content-Length.
func field(name, value []byte) (Kinds, effect) {
	var room [longest]byte
	short := room[:min(len(name), longest)]
	exact := true // no underscore
	for i := range short {
		short[i] = lower[name[i]]
		exact = exact && name[i] != '_'
	}
	switch string(short[:min(len(short), 12)]) {
	case "x-forwarded-":
		switch string(short[12:]) {
		case "for":
			if exact && len(name) == len(short) {
				return ForwardedFor, none
			}
		case "host":
			if exact && len(name) == len(short) {
				return ForwardedHost, none
			}
		case "proto":
			if exact && len(name) == len(short) {
				return ForwardedProto, none
			}
		}
		return Said, none
	}
	if len(name) > longest {
		return Plain, none
	}
	switch string(short) {
	case "connection":
		if exact && bytes.EqualFold(bytes.Trim(value, " \t"), []byte("keep-alive")) {
			return Hop, none
		}
		if !exact || bytes.EqualFold(bytes.Trim(value, " \t"), []byte("close")) {
			return Hop, notPlain
		}
		return Hop, unknownEnd // an upgrade, or what there should not be
	case "upgrade":
		if exact {
			return Hop, unknownEnd
		}
		return Hop, notPlain
	case "transfer-encoding":
		return Hop, unknownEnd
	case "host", "content-length": // with an underscore
		return Plain, notPlain
	case "expect", "te", "trailer", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "http2-settings":
		return Hop, notPlain
	case "authorization", "x-api-key", "api-key", "x-auth-token":
		if door.HasKey(value) {
			return Plain, notPlain
		}
	case "x-buntime-token":
		if !exact {
			return Token, notPlain
		}
		return Token, none
	case "forwarded":
		if !exact {
			return Said, none
		}
		return Forwarded, none
	case "x-real-ip":
		return Said, none
	}
	return Plain, none
}
