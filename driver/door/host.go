// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package door

import (
	"strconv"
	"strings"
)

// PreviewPort is where a session's web server is expected.
const PreviewPort = 8080

// NodeHost is the host that a front-end asks for when it calls the API of a session's
// node, at an address that may be out of date: the port may be that of another
// session's previews by now, and what the request carries is none of its app's
// business.
const NodeHost = "node.buntime.invalid"

// Host is what the first label of a preview's host name says.
type Host struct {
	// Session is the session's host label, "ses-…" in lower case; "" if the
	// host names no session.
	Session string
	// Port is the one that the host names, or PreviewPort; 0 if it names one
	// that there cannot be.
	Port int
	// Domain is what follows the first label, in lower case.
	Domain string
}

// ParseHost reads ses-….<domain> and <port>-ses-….<domain>, with or without
// a port of the server's, in whatever case; an underscore is taken for the
// hyphen after "ses". Front-end and node agent both go by it, so that no host
// is one session's for the one and another's for the other.
func ParseHost(host string) Host {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host = host[:i]
	}
	label, domain, _ := strings.Cut(strings.ToLower(strings.TrimSuffix(host, ".")), ".")
	h := Host{Port: PreviewPort, Domain: domain}
	if number, rest, ok := strings.Cut(label, "-"); ok && number != "" && strings.Trim(number, "0123456789") == "" {
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil || len(number) > 5 {
			port = 0
		}
		h.Port, label = int(port), rest
	}
	for _, prefix := range []string{"ses-", "ses_"} {
		if rest, ok := strings.CutPrefix(label, prefix); ok && rest != "" && alphanumeric(rest) {
			h.Session = "ses-" + rest
			return h
		}
	}
	h.Port = PreviewPort
	return h
}

func alphanumeric(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
