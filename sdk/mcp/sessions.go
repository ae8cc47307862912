// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package mcp

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	buntime "github.com/buntime/buntime/sdk/go"
)

type getPreviewURL struct {
	Port int `json:"port,omitempty" jsonschema:"the port that the web server listens on; 8080 by default"`
	Session
}

// Preview is the structured result of get_preview_url.
type Preview struct {
	SessionID string `json:"sessionId"`
	URL       string `json:"url"`
	Port      int    `json:"port"`
}

type killProcesses struct {
	PID    int    `json:"pid,omitempty" jsonschema:"the process to end, with all that came of it; all processes of the session by default"`
	Signal string `json:"signal,omitempty" jsonschema:"a signal such as SIGTERM; SIGKILL by default"`
	Session
}

// Killed is the structured result of kill_processes.
type Killed struct {
	SessionID string `json:"sessionId"`
	Killed    int    `json:"killed"`
	PIDs      []int  `json:"pids"`
}

type sessionInfo struct {
	Session
}

// Info is the structured result of session_info.
type Info struct {
	SessionID  string    `json:"sessionId"`
	State      string    `json:"state" jsonschema:"active, idle or deep-sleep; the next call wakes it"`
	CreatedAt  time.Time `json:"createdAt"`
	ExpiresAt  time.Time `json:"expiresAt" jsonschema:"when it and its files are deleted"`
	PreviewURL string    `json:"previewUrl" jsonschema:"of a web server on port 8080"`
	Files      int       `json:"files"`
	Memory     Amount    `json:"memory" jsonschema:"in MB"`
	Disk       Amount    `json:"disk" jsonschema:"in MB"`
	Timeout    int       `json:"timeout" jsonschema:"default time-out of a run, in seconds"`
	Processes  []Process `json:"processes"`
}

// Amount is how much of something is used, and may be.
type Amount struct {
	Used  int `json:"used"`
	Limit int `json:"limit"`
}

// Process is one that runs.
type Process struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
	Ports   []int  `json:"ports" jsonschema:"those it listens on"`
}

func (t tools) addSessions() {
	add(t, mcp.Tool{
		Name: "get_preview_url", Title: "Get the URL of a web server", Annotations: hints(true, false, true),
		Description: "Get the public URL of a web server in the session. The server has to listen already: start it with execute_code (Bun.serve) or run_command.",
	}, (*call).previewURL)
	add(t, mcp.Tool{
		Name: "kill_processes", Title: "End processes", Annotations: hints(false, true, true),
		Description: "End one process of the session, or all of them, as servers that are not needed any more. Files stay.",
	}, (*call).killProcesses)
	add(t, mcp.Tool{
		Name: "session_info", Title: "Look at the session", Annotations: hints(true, false, true),
		Description: "Look at the session: its id, when it ends, memory and disk it uses and may use, what runs in it and on which ports.",
	}, (*call).info)
}

func (c *call) previewURL(ctx context.Context, in getPreviewURL) (*answer[Preview], error) {
	port := in.Port
	if port == 0 {
		port = defaultPort
	}
	if port < 1 || port > 65535 {
		return nil, toldf("pass the port that the server listens on.", "%d is no port.", port)
	}
	// Info does not wake a session, processes do: servers of one in deep sleep are gone.
	info, err := c.client.Info(ctx, c.session)
	if err != nil {
		return nil, err
	}
	processes, err := c.client.Processes(ctx, c.session)
	if err != nil {
		return nil, err
	}
	var ports []int
	for _, p := range processes {
		ports = append(ports, p.Ports...)
	}
	url := portURL(info.PreviewURL, port)
	if !slices.Contains(ports, port) {
		also := "nothing else listens either"
		if len(ports) > 0 {
			slices.Sort(ports)
			also = "what listens is on " + strings.Trim(fmt.Sprint(slices.Compact(ports)), "[]")
		}
		return nil, toldf(fmt.Sprintf("start the server first (execute_code with Bun.serve({ port: %d, … }), which keeps running), or pass the port that it listens on. The URL will be %s.", port, url),
			"Nothing listens on port %d of the session; %s. A server ends when its session has slept for long.", port, also)
	}
	return &answer[Preview]{text: url, out: Preview{c.session, url, port}}, nil
}

const defaultPort = 8080

// portURL is the preview URL of another port: its host begins with it.
func portURL(url string, port int) string {
	if port == defaultPort {
		return url
	}
	scheme, rest, _ := strings.Cut(url, "://")
	return fmt.Sprintf("%s://%d-%s", scheme, port, rest)
}

func (c *call) killProcesses(ctx context.Context, in killProcesses) (*answer[Killed], error) {
	killed, err := c.client.Kill(ctx, c.session, in.PID, in.Signal)
	if err != nil {
		return nil, err
	}
	out := Killed{c.session, killed.Killed, append([]int{}, killed.PIDs...)}
	text := fmt.Sprintf("Ended %d processes: %v.", out.Killed, out.PIDs)
	if out.Killed == 0 {
		text = "There was no such process; session_info shows what runs."
		if in.PID == 0 {
			text = "Nothing runs in the session."
		}
	}
	return &answer[Killed]{text: text, out: out}, nil
}

func (c *call) info(ctx context.Context, _ sessionInfo) (*answer[Info], error) {
	s, err := c.client.Info(ctx, c.session)
	if err != nil {
		return nil, err
	}
	var processes []buntime.Process
	if s.ActiveProcesses > 0 {
		if processes, err = c.client.Processes(ctx, c.session); err != nil {
			return nil, err
		}
	}
	out := Info{
		SessionID: s.SessionID, State: s.State, CreatedAt: s.CreatedAt, ExpiresAt: s.ExpiresAt, PreviewURL: s.PreviewURL, Files: s.FilesCount,
		Memory: Amount{int(s.Usage.Memory >> 20), s.ResourceLimits.Memory}, Disk: Amount{int(s.Usage.Disk >> 20), s.ResourceLimits.Disk},
		Timeout: s.ResourceLimits.Timeout, Processes: make([]Process, 0, len(processes)),
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s is %s, until %s. Memory %d of %d MB, disk %d of %d MB, %d files, preview %s", s.SessionID, s.State,
		s.ExpiresAt.Format(time.RFC3339), out.Memory.Used, out.Memory.Limit, out.Disk.Used, out.Disk.Limit, out.Files, s.PreviewURL)
	for _, p := range processes {
		out.Processes = append(out.Processes, Process{p.PID, p.Command, append([]int{}, p.Ports...)})
		fmt.Fprintf(&b, "\npid %d: %.200s", p.PID, p.Command)
		if len(p.Ports) > 0 {
			fmt.Fprintf(&b, ", listens on %s", strings.Trim(fmt.Sprint(p.Ports), "[]"))
		}
	}
	return &answer[Info]{text: b.String(), out: out}, nil
}
