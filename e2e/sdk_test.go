// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// TestSDK: the package of the TypeScript client, installed in a project that
// knows nothing of this repository, on Node and on Bun.
func TestSDK(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 5*time.Minute)
	p := newProject(t, ctx)

	// Programs by name.
	var names []string
	add := func(name, source string) {
		p.write(name+".ts", source)
		names = append(names, name)
	}
	for _, name := range []string{"calls", "cuts"} {
		add(name, p.testdata(name))
	}
	add("readme", examples(t, p.read("sdk/typescript/README.md")))
	for i, program := range snippets(t, p.read("docs/sessions.md")) {
		add(fmt.Sprintf("snippet-%02d", i+1), program)
	}
	p.write("check.ts", p.testdata("check"))
	p.compile()

	for _, engine := range []struct {
		name string
		args func(program string) []string
	}{
		{"node", func(program string) []string { return []string{p.node, "js/" + program + ".js"} }},
		{"bun", func(program string) []string { return []string{p.bun, program + ".ts"} }},
	} {
		t.Run(engine.name, func(t *testing.T) {
			t.Parallel()
			for _, name := range names {
				t.Run(name, func(t *testing.T) { p.in(t).run(engine.args(name)...) })
			}
		})
	}
	t.Run("own tests", func(t *testing.T) {
		t.Parallel()
		p := p.in(t)
		p.dir = filepath.Join(p.root, "sdk/typescript")
		p.run(p.node, "--test", "out/test/")
		p.run(p.bun, "test", "./test/")
	})
}

// TestSDKTypes: the client's types are those of the API that is served.
func TestSDKTypes(t *testing.T) {
	t.Parallel()
	reply := send(t, deadline(t, usual), paid(), client.Call{Method: "GET", Path: "/openapi.json"})
	status(t, reply, 200)
	var served, committed map[string]any
	if err := json.Unmarshal(reply.Body, &served); err != nil {
		t.Fatal(err)
	}
	delete(served, "servers") // where this one is
	text, err := os.ReadFile("../sdk/typescript/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &committed); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(served, committed) {
		t.Error("sdk/typescript/openapi.json is not what is served; make openapi brings it and the types up to date")
	}
}

// project is a folder outside of the repository that has the client installed.
type project struct {
	t         *testing.T
	ctx       context.Context
	root, dir string
	node, bun string
}

// newProject builds the package and installs it.
func newProject(t *testing.T, ctx context.Context) *project {
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	p := &project{t: t, ctx: ctx, root: root, dir: root}
	p.node = strings.TrimSpace(p.run("e2e/tools/node20"))
	p.bun = strings.TrimSpace(p.run("e2e/tools/get", "bun"))
	pack := strings.TrimSpace(p.run("sdk/typescript/pack"))
	p.dir = t.TempDir()
	p.write("package.json", `{"name": "app", "private": true, "type": "module"}`)
	// It needs nothing else, so there is nothing to get.
	p.run("npm", "install", "--offline", "--no-audit", "--no-fund", "--loglevel=error", pack)
	equal(t, "license", strings.TrimSpace(p.run(p.node, "-p", `require("buntime.sh/package.json").license`)), "MPL-2.0")
	return p
}

// compile checks the types of the programs, strictly and with those of the
// package, and writes them to js/ for Node.
func (p *project) compile() {
	p.t.Helper()
	modules := filepath.Join(p.root, "sdk/typescript/node_modules")
	settings, err := json.Marshal(M{"compilerOptions": M{
		"target": "ES2022", "module": "NodeNext", "lib": []string{"ES2022"}, "strict": true, "exactOptionalPropertyTypes": true,
		"noUncheckedIndexedAccess": true, "typeRoots": []string{filepath.Join(modules, "@types")}, "types": []string{"node"}, "outDir": "js",
	}})
	if err != nil {
		p.t.Fatal(err)
	}
	p.write("tsconfig.json", string(settings))
	p.run(p.node, filepath.Join(modules, "typescript/bin/tsc"), "-p", ".")
}

func (p *project) in(t *testing.T) *project {
	c := *p
	c.t = t
	return &c
}

func (p *project) read(path string) string {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.root, path))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

func (p *project) testdata(name string) string {
	p.t.Helper()
	return p.read("e2e/testdata/sdk/" + name + ".ts")
}

func (p *project) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

var madeSession = regexp.MustCompile(`(?m)^session (ses_\S+)$`)

// run runs a command in the project that has to end well, with the API in its
// environment, and deletes the sessions of which it tells.
func (p *project) run(args ...string) string {
	p.t.Helper()
	if !filepath.IsAbs(args[0]) && strings.Contains(args[0], "/") {
		args[0] = filepath.Join(p.dir, args[0])
	}
	cmd := exec.CommandContext(p.ctx, args[0], args[1:]...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "BUNTIME_BASE_URL="+system.base, "BUNTIME_API_KEY="+system.paid, "BUNTIME_BAD_URL="+cutter(p.t),
		"PATH="+filepath.Dir(p.node)+":"+os.Getenv("PATH"))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	for _, made := range madeSession.FindAllStringSubmatch(stdout.String(), -1) {
		dropLater(p.t, paid(), made[1])
	}
	if err != nil {
		p.t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.String()
}

// cutter is the URL of a proxy to the API that breaks off answers after some
// hundred bytes; later ones get further, so that all comes to an end.
func cutter(t *testing.T) string {
	target, err := url.Parse(system.base)
	if err != nil {
		t.Fatal(err)
	}
	var answers atomic.Int64
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ModifyResponse: func(r *http.Response) error {
			r.Body = &cutBody{r.Body, 200 + 500*answers.Add(1) + rand.Int64N(500)}
			return nil
		},
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	return server.URL
}

// cutBody breaks off after left bytes.
type cutBody struct {
	io.ReadCloser
	left int64
}

func (b *cutBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		time.Sleep(10 * time.Millisecond) // for what came before to arrive
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// examples is the program that a document's TypeScript blocks make together.
func examples(t *testing.T, document string) string {
	t.Helper()
	var program strings.Builder
	for i, part := range strings.Split(document, "```") {
		if code, ok := strings.CutPrefix(part, "ts\n"); ok && i%2 == 1 {
			program.WriteString(code)
		}
	}
	if program.Len() == 0 {
		t.Fatal("there are no examples")
	}
	return program.String()
}

// beginsCode tells code from prose in a document that does not mark it.
var beginsCode = regexp.MustCompile(`^(//|(const|let|await|async|class|function|import|export|for|if|try|return|new) |console\.)`)

// looksLikeCode is for what snippetsOf may have missed.
var looksLikeCode = regexp.MustCompile(`client\.|;\s*(//.*)?$|=>|^\s*[{}]|\{\s*$`)

// snippet is code in a document.
type snippet struct {
	line int // of its beginning, from 1
	text string
}

// snippetsOf finds all code in a document of plain text: lines from one that
// begins as code does, as long as a bracket is open or more such lines come.
func snippetsOf(t *testing.T, document string) (all []snippet) {
	t.Helper()
	lines := strings.Split(strings.TrimRight(document, "\n"), "\n")
	for i := 0; i < len(lines); {
		if !beginsCode.MatchString(lines[i]) {
			if looksLikeCode.MatchString(lines[i]) {
				t.Fatalf("line %d looks like code that nobody runs: %s", i+1, lines[i])
			}
			i++
			continue
		}
		end, depth := i, 0
		for j := i; j < len(lines) && (depth > 0 || lines[j] == "" || beginsCode.MatchString(lines[j])); j++ {
			for _, r := range lines[j] {
				switch r {
				case '(', '[', '{':
					depth++
				case ')', ']', '}':
					depth--
				}
			}
			if lines[j] != "" {
				end = j + 1
			}
		}
		all = append(all, snippet{i + 1, strings.Join(lines[i:end], "\n") + "\n"})
		i = end
	}
	return all
}

// snippets are programs of the snippets of the users' document on sessions: each
// as it stands there, with what it leaves out before, and after it what it is
// said to do.
func snippets(t *testing.T, document string) (programs []string) {
	t.Helper()
	found := snippetsOf(t, document)
	lines := strings.Split(document, "\n")
	from := 0
	for i, frame := range frames {
		if i == len(found) {
			t.Fatalf("snippet %d, of %q, is not in the document any more", i+1, frame.section)
		}
		section := -1
		for n := from; n < found[i].line; n++ {
			if lines[n] == frame.section {
				section = n
			}
		}
		if section < 0 {
			t.Fatalf("snippet at line %d is not below %q:\n%s", found[i].line, frame.section, found[i].text)
		}
		from = section
		programs = append(programs, programOf(frame, found[i].text))
	}
	if len(found) > len(frames) {
		t.Fatalf("snippet at line %d is not in the test's table:\n%s", found[len(frames)].line, found[len(frames)].text)
	}
	return programs
}

func programOf(f frame, text string) string {
	return `import { Buntime, BuntimeError } from 'buntime.sh';
import { equal, ok, rejects, seconds, visit, watched } from './check.js';
const client = watched(new Buntime());
` + f.before + "\n" + text + "\n" + f.after + "\nexport {};\n"
}
