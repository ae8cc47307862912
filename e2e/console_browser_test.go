// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/buntime/buntime/e2e/client"
)

// startBrowser starts a Chromium that ends with the test.
func startBrowser(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v; make packages installs it", err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, // it runs as root, on our own pages
		chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1440, 900), chromedp.WSURLReadTimeout(usual),
	)
	allocator, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	// The browser lives as long as its first tab.
	first, end := chromedp.NewContext(allocator)
	t.Cleanup(end)
	if err := chromedp.Do(first); err != nil {
		t.Fatalf("start Chromium: %v", err)
	}
	return first
}

// tab is a tab of a browser, with storage of its own, at the console.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu    sync.Mutex
	wrong []string // what must not happen: errors, dialogs, what the policy refused
	// network is what failed there, and may.
	network []string
}

// newTab opens a tab at the console. It fails the test in the end if anything was wrong.
func newTab(t *testing.T, browserContext context.Context) *tab {
	t.Helper()
	ctx, end := chromedp.NewContext(browserContext, chromedp.WithNewBrowserContext())
	t.Cleanup(end)
	ctx, cancel := context.WithTimeout(ctx, 2*usual)
	t.Cleanup(cancel)
	x := &tab{t: t, ctx: ctx}
	if err := chromedp.Listen(ctx, x.listen); err != nil {
		t.Fatalf("open a tab: %v", err)
	}
	// A refusal that the page itself hears of, whatever the browser logs.
	call(x, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: `
		addEventListener("securitypolicyviolation", (e) => console.error("policy", e.effectiveDirective, e.blockedURI));
		addEventListener("unhandledrejection", (e) => console.error("rejected", String(e.reason)));`})
	x.do(chromedp.Navigate(system.base+"/console"), chromedp.WaitVisible(chromedp.CSS("#key")))
	t.Cleanup(func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		for _, w := range x.wrong {
			t.Errorf("in the browser: %s", w)
		}
	})
	return x
}

func (x *tab) listen(event any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	note := func(format string, args ...any) { x.wrong = append(x.wrong, fmt.Sprintf(format, args...)) }
	switch e := event.(type) {
	case *page.EventJavascriptDialogOpening:
		note("dialog: %s", e.Message)
		go func() {
			_, _ = chromedp.Call(x.ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{}) // the test fails already
		}()
	case *runtime.EventExceptionThrown:
		note("exception: %s", raw(e.ExceptionDetails))
	case *runtime.EventConsoleAPICalled:
		if e.Type == "error" {
			note("console: %s", raw(e.Args))
		}
	case *cdplog.EventEntryAdded:
		if e.Entry.Source == cdplog.EntrySourceNetwork { // that a status was an error is the test's to judge
			x.network = append(x.network, e.Entry.Text+" "+e.Entry.URL)
		} else if e.Entry.Level == cdplog.EntryLevelError {
			note("log: %s %s", e.Entry.Source, e.Entry.Text)
		}
	}
}

// do does something, or fails the test with a picture of the page.
func (x *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	x.t.Helper()
	if err := chromedp.Do(x.ctx, actions...); err != nil {
		x.fail("%v", err)
	}
}

// call is do for a command of the browser's protocol.
func call[P, R any](x *tab, command cdp.Command[P, R], params P) {
	x.t.Helper()
	if _, err := chromedp.Call(x.ctx, command, params); err != nil {
		x.fail("%v", err)
	}
}

// eval is the value of an expression of the page's.
func eval[T any](x *tab, expression string) T {
	x.t.Helper()
	v, err := chromedp.Run(x.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		x.fail("%v", err)
	}
	return v
}

func (x *tab) fail(format string, args ...any) {
	x.t.Helper()
	x.picture("failed")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), 5*time.Second)
	defer cancel()
	text, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`location.hash + " " + (window.pwned ?? "") + "\n" + document.body.innerText`))
	x.mu.Lock()
	defer x.mu.Unlock()
	x.t.Fatalf(format+"\nthe page:\n%s\n%s", append(args, text, strings.Join(append(x.wrong, x.network...), "\n"))...)
}

// picture keeps a picture of the page where BUNTIME_SCREENSHOTS is a folder.
func (x *tab) picture(name string) {
	dir := os.Getenv("BUNTIME_SCREENSHOTS")
	if dir == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), 10*time.Second)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		x.t.Logf("picture %s: %v", name, err)
		return
	}
	name = strings.NewReplacer("/", "-", " ", "-").Replace(x.t.Name()+"-"+name) + ".png"
	if err := os.WriteFile(filepath.Join(dir, name), png, 0o644); err != nil {
		x.t.Log(err)
	}
}

// colours has the page light or dark, as its user's system says.
func (x *tab) colours(scheme string) {
	x.t.Helper()
	call(x, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
}

// width makes the window so wide.
func (x *tab) width(pixels int) {
	x.t.Helper()
	call(x, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: int64(pixels), Height: 800, DeviceScaleFactor: 1})
}

// until waits until an expression is true.
func (x *tab) until(what, expression string) {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for {
		so, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("!!("+expression+")"))
		if err == nil && so {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			x.fail("%s: never so (%v)", what, err)
		}
	}
}

// sees waits for a text in what a selector finds.
func (x *tab) sees(selector, text string) {
	x.t.Helper()
	x.until(fmt.Sprintf("%q in %s", text, selector),
		fmt.Sprintf(`[...document.querySelectorAll(%s)].some((e) => e.checkVisibility() && e.innerText.includes(%s))`, quote(selector), quote(text)))
}

// click clicks on the one thing that a selector finds, or that has a text.
func (x *tab) click(selector string, text ...string) {
	x.t.Helper()
	if len(text) > 0 {
		path := fmt.Sprintf(`//%s[not(ancestor::*[@hidden]) and normalize-space(.)=%s]`, selector, quote(text[0]))
		x.do(chromedp.Click(path))
		return
	}
	x.do(chromedp.Click(chromedp.CSS(selector)))
}

// press presses keys one after the other, wherever the focus is.
func (x *tab) press(keys ...string) {
	x.t.Helper()
	for _, k := range keys {
		if with, ok := strings.CutPrefix(k, "ctrl+"); ok {
			x.do(chromedp.KeyEvent(with, chromedp.KeyModifiers(chromedp.ModifierCtrl)))
			continue
		}
		x.do(chromedp.KeyEvent(k))
	}
}

// paste puts a text where the focus is, as an input method does.
func (x *tab) paste(text string) {
	x.t.Helper()
	call(x, input.InsertText, input.InsertTextParams{Text: text})
}

// signIn gives a key and waits for the list.
func (x *tab) signIn(key string) {
	x.t.Helper()
	x.do(chromedp.SendKeys(chromedp.CSS("#key"), key+kb.Enter))
	x.sees("h1", "Sessions")
}

// code puts a text in the editor in place of what is there.
func (x *tab) code(text string) {
	x.t.Helper()
	x.do(chromedp.Focus(chromedp.CSS(".cm-content"), chromedp.NodeVisible))
	x.press("ctrl+a")
	x.paste(text)
}

// session is the one that the tab is at.
func (x *tab) session() string {
	x.t.Helper()
	x.until("a session is shown", `location.hash.startsWith("#/sessions/ses_")`)
	return strings.Split(eval[string](x, "location.hash"), "/")[2]
}

// downloads has what is downloaded end up in a folder.
func (x *tab) downloads() (dir string) {
	x.t.Helper()
	dir = x.t.TempDir()
	call(x, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
		Behavior: browser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir, BrowserContextID: chromedp.FromContext(x.ctx).BrowserContextID,
	})
	return dir
}

// infoOf is what the API tells of a session.
func infoOf(t *testing.T, ctx context.Context, api *client.Client, id string) info {
	t.Helper()
	return decode[info](t, send(t, ctx, api, client.Call{Method: "GET", Path: "/sessions/" + id}))
}

// raw is a value as JSON.
func raw(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}
