// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package door

import (
	"net/http"
	"slices"
	"strings"
)

// KeyPrefix begins every API key.
const KeyPrefix = "btk_"

// TokenHeader carries, from a front-end to a node agent, the token that makes a
// preview's request a front-end's.
const TokenHeader = "X-Buntime-Token"

// MovedHeader marks an answer of a node's own to a front-end: the session has left
// the node, and nothing of the request was done.
const MovedHeader = "X-Buntime-Moved"

// Key is the API key that a request carries in the one way that there is: one
// Authorization header, of the scheme Bearer in whatever case.
func Key(h http.Header) (string, bool) {
	values := h["Authorization"]
	if len(values) != 1 {
		return "", false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	token = strings.Trim(token, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || !strings.HasPrefix(token, KeyPrefix) || strings.ContainsAny(token, " \t,") {
		return "", false
	}
	return token, true
}

// HasKey says whether a value may be an API key, or have one in it.
func HasKey(value []byte) bool {
	for i := 0; i+len(KeyPrefix) <= len(value); i++ {
		if value[i]|0x20 == KeyPrefix[0] && strings.EqualFold(string(value[i:i+len(KeyPrefix)]), KeyPrefix) {
			return true
		}
	}
	return false
}

// credentials are the headers in which clients send keys, rightly or by mistake.
var credentials = []string{"authorization", "proxy-authorization", "x-api-key", "api-key", "x-auth-token"}

// Inward takes out of a visitor's header what is not for an app in a session:
// every form of an API key that Key could take, and more; tokens between
// front-end and node; and a wish for any other protocol than WebSocket, behind
// which nobody looks at requests any more. Of the hop-by-hop headers there may
// be no more than those of an upgrade, as httputil.ReverseProxy leaves them.
func Inward(h http.Header) {
	for name, values := range h {
		switch plain := plain(name); {
		case slices.Contains(credentials, plain):
			kept := slices.DeleteFunc(slices.Clone(values), func(v string) bool {
				return strings.Contains(strings.ToLower(v), KeyPrefix)
			})
			if len(kept) == 0 {
				delete(h, name)
			} else {
				h[name] = kept
			}
		case plain == plainToken, plain == "http2-settings":
			delete(h, name)
		case plain == "upgrade" && (len(values) != 1 || !strings.EqualFold(values[0], "websocket")):
			delete(h, name)
			delete(h, "Connection")
		}
	}
}

var plainToken = plain(TokenHeader)

// Unforwarded takes out of a header what only proxies are to say of a client.
func Unforwarded(h http.Header) {
	for name := range h {
		plain := plain(name)
		if plain == "forwarded" || plain == "x-real-ip" || strings.HasPrefix(plain, "x-forwarded-") {
			delete(h, name)
		}
	}
}

// plain is a header's name as the least careful of apps reads it: by the rules
// of CGI a hyphen and an underscore are the same.
func plain(name string) string { return strings.ReplaceAll(strings.ToLower(name), "_", "-") }

// Method says whether a request's method may go to an app. CONNECT would make
// a tunnel of the connection, and TRACE shows what was added on the way.
func Method(method string) bool {
	return method != http.MethodConnect && !strings.EqualFold(method, http.MethodTrace)
}
