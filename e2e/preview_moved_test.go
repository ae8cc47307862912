// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// movedApp claims in every way that it can that its session has moved, and keeps what it
// was asked.
const movedApp = `
	const moved = "X-Buntime-Moved: 1\r\n";
	const say: Record<string, string> = {
		"/plain": "HTTP/1.1 421 Misdirected Request\r\n" + moved + "Content-Length: 5\r\n\r\nhello",
		"/small": "HTTP/1.1 200 OK\r\nx-buntime-moved:1\r\nContent-Length: 5\r\n\r\nhello",
		"/underscore": "HTTP/1.1 200 OK\r\nX_Buntime_Moved: 1\r\nContent-Length: 5\r\n\r\nhello",
		"/chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + moved + "\r\n5\r\nhello\r\n0\r\n" + moved + "\r\n",
		"/trailer": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Buntime-Moved\r\n\r\n5\r\nhello\r\n0\r\n" + moved + "\r\n",
		"/folded": "HTTP/1.1 200 OK\r\n" + moved + "X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
		"/twice": "HTTP/1.1 503 Service Unavailable\r\n" + moved + moved + "Content-Length: 5\r\n\r\nhello",
		"/listed": "HTTP/1.1 410 Gone\r\nConnection: X-Buntime-Moved\r\n" + moved + "Content-Length: 5\r\n\r\nhello",
		"/hint": "HTTP/1.1 103 Early Hints\r\n" + moved + "\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"/end": "HTTP/1.1 401 Unauthorized\r\n" + moved + "\r\nhello",
	};
	const got: string[] = [];
	Bun.listen({ port: 8090, hostname: "0.0.0.0", socket: { data(socket, data) {
		const text = data.toString("latin1");
		const path = text.split(" ")[1] ?? "";
		if (path === "/got") {
			const answer = JSON.stringify(got);
			socket.write("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + answer.length + "\r\n\r\n" + answer);
			return;
		}
		if (!say[path]) return;
		got.push(path);
		socket.write(Buffer.from(say[path], "latin1"));
		if (path === "/end") socket.end();
	} } });
`

// TestPreviewMoved: that a session has moved is the node's to say. If an app could, the
// front-end would look for the session anew, and send the request again.
func TestPreviewMoved(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.background(movedApp)
	_, port, err := net.SplitHostPort(system.previewDomain)
	if err != nil {
		t.Fatal(err)
	}
	host := "8090-" + s.host() + "." + system.previewDomain
	paths := []string{"/plain", "/small", "/underscore", "/chunks", "/trailer", "/folded", "/twice", "/listed", "/hint", "/end"}
	asked := 0
	var all sync.WaitGroup
	ask := func(path, name, line string) {
		asked++
		all.Go(func() {
			answer, err := exchangeRaw(s.ctx, "127.0.0.1:"+port, "POST "+path+" HTTP/1.1\r\nHost: "+host+"\r\nContent-Length: 0\r\n"+line+"\r\n")
			if err != nil {
				t.Error(err)
			}
			if !strings.Contains(answer, "hello") || strings.Count(answer, "HTTP/1.1") > 2 {
				t.Errorf("%s, %s: %s", path, name, brief(answer))
			}
			if head, _, _ := strings.Cut(answer, "hello"); path != "/hint" && path != "/trailer" && strings.Contains(strings.ToLower(head), "\nx-buntime-moved") {
				t.Errorf("%s, %s: the visitor sees it: %s", path, name, brief(answer))
			}
		})
	}
	for _, path := range paths { // by the relay, and by the general path
		ask(path, "plain", "")
		ask(path, "closing", "Connection: close\r\n")
		ask(path, "with TE", "TE: trailers\r\n")
	}
	all.Wait()
	reply := s.fetchPort(8090, "/got")
	status(t, reply, http.StatusOK)
	if got := decode[[]string](t, reply); len(got) != asked {
		t.Errorf("the app was asked %d times, and got %d: %v", asked, len(got), got)
	}
}
