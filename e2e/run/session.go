// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// firstTimeout bounds the first session.
const firstTimeout = 30 * time.Second

// hello is TypeScript: Bun has to compile it.
const hello = `interface Greeting { to: string }
const greeting: Greeting = { to: "Buntime" };
console.log(` + "`Hello, ${greeting.to}! This is Bun ${Bun.version} in ${process.cwd()}.`" + `);
`

const server = `Bun.serve({ port: 8080, fetch: () => new Response("Hello from port 8080.\n") });
`

// session is what the first session has answered.
type session struct {
	ID         string `json:"sessionId"`
	PreviewURL string `json:"previewUrl"`

	created, executed time.Duration // what create and the first execute took
	output, preview   string
}

type execution struct {
	Stdout     string `json:"stdout"`
	Stderr     string `json:"stderr"`
	ExitCode   int    `json:"exitCode"`
	Background bool   `json:"background"`
}

// firstSession creates a session, runs TypeScript in it, starts a server in it
// and fetches its preview.
func firstSession(ctx context.Context, system *stack.Stack) (*session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, firstTimeout, fmt.Errorf("not done within %s", firstTimeout))
	defer cancel()
	api := client.New(system.URL, system.Keys[0].Key)
	s := &session{}
	took, err := post(ctx, api, "/sessions/create", map[string]any{}, s)
	if err != nil {
		return nil, err
	}
	s.created = took
	var ran execution
	if s.executed, err = post(ctx, api, "/execute", map[string]any{"sessionId": s.ID, "code": hello}, &ran); err != nil {
		return nil, err
	}
	if ran.ExitCode != 0 {
		return nil, fmt.Errorf("execute TypeScript: exit code %d: %s", ran.ExitCode, ran.Stderr)
	}
	s.output = strings.TrimSpace(ran.Stdout)
	var serving execution
	if _, err = post(ctx, api, "/execute", map[string]any{"sessionId": s.ID, "code": server}, &serving); err != nil {
		return nil, err
	}
	if !serving.Background {
		return nil, fmt.Errorf("start a server: it does not run in the background: exit code %d: %s", serving.ExitCode, serving.Stderr)
	}
	s.preview, err = fetch(ctx, api, s.PreviewURL)
	return s, err
}

// post sends a request of the API and decodes the answer.
func post(ctx context.Context, api *client.Client, path string, body, answer any) (time.Duration, error) {
	reply, err := api.Do(ctx, client.Call{Method: http.MethodPost, Path: path, JSON: body})
	if err != nil {
		return 0, err
	}
	if reply.Status != http.StatusOK {
		return 0, fmt.Errorf("post %s: status %d: %s", path, reply.Status, reply.Body)
	}
	if err := json.Unmarshal(reply.Body, answer); err != nil {
		return 0, fmt.Errorf("decode answer of %s: %w", path, err)
	}
	return reply.Took, nil
}

// fetch gets a page of a preview.
func fetch(ctx context.Context, api *client.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("make request: %w", err)
	}
	res, err := api.HTTP.Do(req)
	if err != nil {
		return "", fmt.Errorf("get preview: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return "", fmt.Errorf("read preview %s: %w", url, err)
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("get preview %s: %s: %s", url, res.Status, text)
	}
	return strings.TrimSpace(string(text)), nil
}

// envFile is the name of a file of shell variables in the system's directory.
const envFile = "env"

// writeEnv writes what tests and people need to know of the system, for its
// owner alone: the keys are nowhere else.
func writeEnv(system *stack.Stack) error {
	var text strings.Builder
	for _, v := range [][2]string{
		{"BUNTIME_URL", system.URL},
		{"BUNTIME_KEY", system.Keys[0].Key},
		{"BUNTIME_BASE_URL", system.URL},
		{"BUNTIME_API_KEY", system.Keys[0].Key},
		{"BUNTIME_E2E_URL", system.URL},
		{"BUNTIME_E2E_PREVIEW_DOMAIN", system.PreviewDomain},
		{"BUNTIME_E2E_NOMAD", system.NomadAddr},
		{"BUNTIME_E2E_CONSUL", system.ConsulAddr},
		{"BUNTIME_E2E_PAID", system.Keys[0].Key},
		{"BUNTIME_E2E_FREE", system.Keys[1].Key},
		{"BUNTIME_E2E_ENTERPRISE", system.Keys[0].Key},
		{"NOMAD_ADDR", system.NomadAddr},
		{"CONSUL_HTTP_ADDR", system.ConsulAddr},
	} {
		fmt.Fprintf(&text, "export %s='%s'\n", v[0], v[1])
	}
	if err := os.WriteFile(filepath.Join(system.Dir, envFile), []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("write variables: %w", err)
	}
	return nil
}

func (s *session) summary() string {
	return fmt.Sprintf("created in %d ms, executed in %d ms", s.created.Milliseconds(), s.executed.Milliseconds())
}

// howTo says what runs and what to try.
func (s *session) howTo(system *stack.Stack) string {
	curl := "curl -s -H 'Authorization: Bearer " + system.Keys[0].Key + "'"
	return fmt.Sprintf(`
  TypeScript said   %s
  its preview said  %s

  API      %s
  API key  %s
  console  %s/console
  session  %s
  preview  %s
  logs     %s/*.log
  shell    . %s

Try:

%s -X POST %s/sessions/create
%s -H 'Content-Type: application/json' -d '{"sessionId": "%s", "code": "console.log(6 * 7)"}' %s/execute
curl -s %s

or, in a terminal of its own (docs/cli.md):

. %s
out/bin/buntime shell %s

Ctrl-C ends everything.
`, s.output, s.preview, system.URL, system.Keys[0].Key, system.URL, s.ID, s.PreviewURL, system.Dir, filepath.Join(system.Dir, envFile),
		curl, system.URL, curl, s.ID, system.URL, s.PreviewURL, filepath.Join(system.Dir, envFile), s.ID)
}
