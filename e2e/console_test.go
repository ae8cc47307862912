// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/buntime/buntime/e2e/client"
)

// TestConsole uses the console in a real browser.
func TestConsole(t *testing.T) {
	t.Parallel()
	if system.stack == nil {
		t.Skip("it needs the configuration of the front-end")
	}
	browser := startBrowser(t)
	for name, test := range map[string]func(*testing.T, context.Context){
		"a session's life": consoleLife, "keyboard": consoleKeyboard, "looking": consoleLooking,
		"accounts": consoleAccounts, "operator": consoleOperator, "hostile": consoleHostile,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, browser)
		})
	}
}

// consoleLife goes through what the console does with a session.
func consoleLife(t *testing.T, browser context.Context) {
	ctx := deadline(t, 2*usual)
	api := ownAccount(t, ctx, "console-life")
	x := newTab(t, browser)
	x.picture("signin")
	x.do(chromedp.SendKeys(chromedp.CSS("#key"), "btk_wrong"+kb.Enter))
	x.sees("[role=alert]", "There is no such key.")
	x.signIn(api.Key)
	x.sees("main", "There is no session.")

	x.click("button", "New session")
	x.do(chromedp.SendKeys(chromedp.CSS("dialog textarea"), `{"project": "demo"}`))
	x.picture("create")
	x.click("button", "Create")
	id := x.session()
	dropLater(t, api, id)
	s := &session{t: t, ctx: ctx, api: api, id: id}

	// Output comes while the code runs.
	x.code(`console.log("\x1b[32mfirst\x1b[0m"); console.error("oops"); ` + untilFile("go") + ` console.log("second");`)
	x.click("#run")
	x.sees("#output .fg-green", "first")
	x.sees("#output .stderr", "oops")
	x.until("it runs", `document.querySelector("#stop")`)
	s.write("go", "")
	x.sees("#output", "second")
	x.sees("#output .note", "exit code 0")

	// What runs can be stopped.
	x.code(`console.log("for ever"); setInterval(() => {}, 1000);`)
	x.click("#run")
	x.sees("#output", "for ever")
	x.click("#stop")
	x.sees("#output .note", "(killed)")

	// A server, and its preview.
	x.code(servesHits)
	x.click("#run")
	x.sees("#output .note", "stays as a server")
	x.click("#preview")
	x.until("the preview is there", `document.querySelector("iframe")`)
	eventually(t, ctx, "the page of the session is in the frame", usual, func() (bool, string) {
		hits := string(s.fetch("/hits").Body)
		return hits != "0", hits
	})
	x.colours("light")
	x.picture("run-light")
	x.colours("dark")
	x.picture("run-dark")
	x.width(900)
	x.picture("run-900")
	x.until("nothing is cut off", `document.documentElement.scrollWidth <= 900`)
	x.width(1440)

	// Files, up and down.
	s.fetch("/")
	x.click("#tab-files")
	x.sees(".files", "workspace")
	up := filepath.Join(t.TempDir(), "up load.txt")
	if err := os.WriteFile(up, []byte("uploaded\x00\xff"), 0o644); err != nil {
		t.Fatal(err)
	}
	x.do(chromedp.SetUploadFiles(chromedp.CSS("#upload"), []string{up}))
	x.sees(".files td", "up load.txt")
	equal(t, "what was uploaded", s.read("up load.txt"), "uploaded\x00\xff")
	dir := x.downloads()
	x.do(chromedp.Click(`//tr[contains(., "up load.txt")]//button[.="Download"]`))
	eventually(t, ctx, "the download", usual, func() (bool, string) {
		text, err := os.ReadFile(filepath.Join(dir, "up load.txt"))
		return string(text) == "uploaded\x00\xff", fmt.Sprintf("%q, %v", text, err)
	})
	x.picture("files")

	// A terminal.
	x.click("#tab-terminal")
	x.click("#connect")
	x.do(chromedp.WaitVisible(chromedp.CSS(".xterm-rows")))
	x.until("the terminal has the focus", `document.activeElement.matches(".xterm-helper-textarea")`)
	x.paste("echo $((6*7)) in a $TERM")
	x.press(kb.Enter)
	x.sees(".xterm-rows", "42 in a xterm-256color")
	x.picture("terminal-dark")
	x.click("#disconnect")

	x.click("#tab-processes")
	x.sees(".command", "bun")
	x.picture("processes")
	x.do(chromedp.Click(`//tr[contains(., "bun")]//button[.="Output"]`))
	x.sees("#output", "visitor 1")
	x.sees("#output", "visitor 2") // that of the test
	s.fetch("/")
	x.sees("#output", "visitor 3")
	x.click("#leave")
	x.do(chromedp.WaitVisible(chromedp.CSS("#run")))

	// A file in the editor.
	s.write("sub/edit.ts", `console.log("before")`)
	x.click("#tab-files")
	x.click("button", "sub/")
	x.do(chromedp.Click(`//tr[contains(., "edit.ts")]//button[.="Edit"]`))
	x.sees(".path", "sub/edit.ts")
	x.sees(".cm-content", "before")
	x.code(`console.log("after")`)
	x.click("button", "Save")
	x.sees(".said", "Saved sub/edit.ts.")
	equal(t, "what was saved", s.read("sub/edit.ts"), `console.log("after")`)

	x.click("#tab-details")
	x.sees(".metadata-full", "demo")
	x.until("a chart is drawn", `document.querySelector(".chart canvas")`)
	x.colours("light")
	x.picture("details-light")

	// Sleep, wake, delete.
	x.click("button", "Sleep")
	x.sees(".state", "asleep")
	equal(t, "state", infoOf(t, ctx, api, id).State, "deep-sleep")
	x.click("#tab-files")
	x.sees("main", "wakes it") // and it does not look by itself
	equal(t, "state", infoOf(t, ctx, api, id).State, "deep-sleep")
	x.click("button", "Wake")
	x.sees(".state", "active")
	x.click("button", "Delete")
	x.sees("dialog", "gone for good")
	x.do(chromedp.Click(`//dialog//button[.="Delete"]`))
	x.sees("main", "There is no session.")
	status(t, send(t, ctx, api, client.Call{Method: "GET", Path: "/sessions/" + id}), http.StatusNotFound)
}

// consoleKeyboard does the same without a mouse.
func consoleKeyboard(t *testing.T, browser context.Context) {
	ctx := deadline(t, 2*usual)
	api := ownAccount(t, ctx, "console-keyboard")
	x := newTab(t, browser)
	x.until("the key's field has the focus", `document.activeElement.id === "key"`)
	x.paste(api.Key)
	x.press(kb.Enter)
	x.sees("main", "There is no session.")
	x.press("?")
	x.sees("dialog", "Ctrl+Enter")
	x.press(kb.Escape)
	x.until("the dialog is closed", `!document.querySelector("dialog")`)
	x.press("c")
	x.sees("dialog", "New session")
	x.press(kb.Tab, kb.Tab, kb.Tab, kb.Enter) // into a field of numbers: Enter sends the form
	id := x.session()
	dropLater(t, api, id)
	x.do(chromedp.WaitVisible(chromedp.CSS(".cm-content")))
	x.press("e", "ctrl+a")
	x.paste("console.log('by', 'hand')")
	x.press("ctrl+" + kb.Enter)
	x.sees("#output", "by hand")
	x.sees("#output .note", "exit code 0")
	x.press(kb.Escape) // out of the editor
	x.press("3")
	x.sees("#panel-processes", "Nothing runs.")
	x.press("4")
	x.press(kb.Escape)
	x.until("the list", `location.hash === "#/"`)
	x.sees("td", id)
	x.press("j", "z")
	x.sees(".state", "asleep")
	x.press("w")
	x.sees(".state", "active")
	x.press(kb.Enter)
	equal(t, "opened", x.session(), id)
	x.sees("h1", id)
	x.press("x")
	x.sees("dialog", "gone for good")
	x.press(kb.Tab, kb.Enter)
	x.sees("main", "There is no session.")
}

// consoleLooking looks at a session: that is no use of it, and wakes nothing.
func consoleLooking(t *testing.T, browser context.Context) {
	ctx := deadline(t, 2*usual)
	api := ownAccount(t, ctx, "console-looking")
	s := createSession(t, ctx, api, nil)
	s.background(server(8080, ""))
	rest := func(state string) {
		t.Helper()
		status(t, send(t, ctx, api, client.Call{Method: "POST", Path: "/sessions/" + s.id + "/sleep", JSON: M{"state": state}}), 200)
	}
	rest("idle")
	before := s.info()
	x := newTab(t, browser)
	x.signIn(api.Key)
	x.sees(".state", "idle")
	for _, at := range []string{"run", "processes", "details", "terminal", "files"} {
		eval[any](x, fmt.Sprintf(`location.hash = "#/sessions/%s/%s"`, s.id, at))
		x.sees(fmt.Sprintf("#tab-%s[aria-selected=true]", at), "")
		if at == "processes" {
			x.sees(".command", "bun")
		}
	}
	after := s.info()
	equal(t, "state", after.State, "idle")
	equal(t, "last activity", after.LastActive, before.LastActive)
	rest("deep-sleep")
	eval[any](x, fmt.Sprintf(`location.hash = "#/sessions/%s/processes"`, s.id))
	x.sees(".state", "asleep")
	x.sees("#panel-processes", "Nothing runs.")
	equal(t, "state", s.info().State, "deep-sleep")
}

// consoleAccounts shows that one account sees nothing of another, and what a revoked key
// and a closed tab leave.
func consoleAccounts(t *testing.T, browser context.Context) {
	ctx := deadline(t, usual)
	others := newSession(t)
	api := ownAccount(t, ctx, "console-accounts")
	x := newTab(t, browser)
	x.signIn(api.Key)
	x.sees("main", "There is no session.")
	eval[any](x, fmt.Sprintf(`location.hash = "#/sessions/%s/run"`, others.id))
	x.sees("main", "Looking for")
	eval[any](x, `location.hash = "#/system"`)
	x.sees("h1", "Sessions")

	// A ticket opens a terminal of the session that it is for, and nothing else.
	s := createSession(t, ctx, api, nil)
	ticket := func(id string) []string {
		t.Helper()
		return decode[struct {
			Protocols []string
			ExpiresAt string
		}](t, send(t, ctx, api, client.Call{Method: "POST", Path: "/sessions/" + id + "/terminal/ticket"})).Protocols
	}
	refusal(t, send(t, ctx, api, client.Call{Method: "POST", Path: "/sessions/" + others.id + "/terminal/ticket"}), 404, "session_not_found")
	protocols := ticket(s.id)
	conn, err := api.WebSocket(ctx, s.terminalURL(url.Values{"command": {"true"}}), nil, protocols...)
	if err != nil {
		t.Fatalf("with a ticket: %v", err)
	}
	equal(t, "the protocol agreed on", conn.Subprotocol(), "buntime.terminal")
	conn.CloseNow()
	for what, protocols := range map[string][]string{
		"no ticket": {"buntime.terminal"}, "a key": {"buntime.terminal", "buntime.ticket." + api.Key},
		"another's ticket": ticket(createSession(t, ctx, api, nil).id), "a changed ticket": {protocols[0], flip(protocols[1])},
	} {
		if conn, err := api.WebSocket(ctx, s.terminalURL(nil), nil, protocols...); err == nil {
			conn.CloseNow()
			t.Errorf("a terminal with %s", what)
		} else {
			contains(t, what, err.Error(), "401")
		}
	}

	// A tab that is loaded again is signed in; the key is in no cookie, and not in what other tabs see.
	x.do(chromedp.Navigate(system.base + "/console"))
	x.sees("td", s.id)
	kept := eval[struct {
		Cookie string
		Local  []string
	}](x, `({Cookie: document.cookie, Local: Object.keys(localStorage)})`)
	equal(t, "cookies", kept.Cookie, "")
	equal(t, "local storage", kept.Local, []string{"buntime.theme"})
	y := newTab(t, browser)
	y.sees("label", "API key")
	id, text := newKey(t, ctx, "create", "-account", "console-accounts", "-plan", "enterprise")
	y.do(chromedp.SendKeys(chromedp.CSS("#key"), text+kb.Enter))
	y.sees("td", s.id)
	keysCommand(t, ctx, "revoke", id)
	y.sees("[role=alert]", "not valid any more")
	x.click("button", "Sign out")
	x.do(chromedp.WaitVisible(chromedp.CSS("#key")))
	equal(t, "what is left of the key", eval[int](x, `sessionStorage.length`), 0)
}

// servesHits counts its visitors.
const servesHits = `// A server on port 8080 has a preview.
let hits = 0;

Bun.serve({
  port: 8080,
  fetch(request) {
    if (new URL(request.url).pathname === "/hits") return new Response(String(hits));
    console.log("visitor", hits + 1);
    const text = "<body style='font: 20px system-ui; padding: 2em'><h1>Hello</h1><p>visitor " + ++hits + " of a session</p>";
    return new Response(text, { headers: { "content-type": "text/html" } });
  },
});
console.log("\x1b[32mlistening\x1b[0m on 8080");
`

// flip changes the last character of a text.
func flip(text string) string {
	last := len(text) - 1
	if text[last] == 'A' {
		return text[:last] + "B"
	}
	return text[:last] + "A"
}

// consoleOperator has an operator's key, which sees all accounts' sessions and the
// system, and nothing in another's session.
func consoleOperator(t *testing.T, browser context.Context) {
	ctx := deadline(t, usual)
	others := createSession(t, ctx, enterprise(), M{"metadata": M{"private": "of the account"}})
	others.command("true")
	api := ownAccount(t, ctx, "console-ops", "-operator")
	x := newTab(t, browser)
	x.signIn(api.Key)
	x.do(chromedp.SetValue(chromedp.CSS("#whose"), "*"))
	eval[any](x, `document.querySelector("#whose").dispatchEvent(new Event("change", { bubbles: true }))`)
	x.sees("tr", others.id)
	row := `[...document.querySelectorAll("tbody tr")].find((r) => r.innerText.includes(` + quote(others.id) + `))`
	x.until("the owner", row+`?.innerText.includes("enterprise")`)
	x.until("what it uses", row+`?.querySelector(".sparkline")`)
	text := eval[string](x, row+`.innerText`)
	if strings.Contains(text, "of the account") || strings.Contains(text, "Delete") {
		t.Errorf("another account's session is shown as %q", text)
	}
	x.colours("light")
	x.picture("all-light")
	x.colours("dark")
	x.picture("all-dark")
	x.click(fmt.Sprintf(`a[data-session=%s]`, others.id))
	x.sees("dl", "Owner")
	x.until("nothing of the inside", `!document.querySelector(".tabs, .editor, .screen")`)

	x.click("nav a[href='#/system']")
	x.sees("h2", "Nodes")
	x.sees("td", "ready")
	x.sees("table", "healthy")
	x.until("charts are drawn", `document.querySelectorAll(".chart canvas").length === 3`)
	x.picture("system-dark")
	x.colours("light")
	x.picture("system-light")

	for _, path := range []string{"/operator/sessions", "/operator/system"} {
		refusal(t, send(t, ctx, enterprise(), client.Call{Method: "GET", Path: path}), 403, "forbidden")
	}
	refusal(t, send(t, ctx, api, client.Call{Method: "DELETE", Path: "/sessions/" + others.id}), 404, "session_not_found")
}
