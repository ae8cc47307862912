// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/buntime/buntime/driver/sandbox/network"
)

// The task's directories in the sandbox, as Nomad's variables name them.
const (
	localDir   = "/local"
	secretsDir = "/secrets"
	allocDir   = "/alloc"
)

// codeFile is where inline code lies, in localDir, so that it can import the
// templates and artifacts beside it by a relative path.
const codeFile = ".code.ts"

// taskConfig is a task's `config` block, checked and with defaults. It is
// part of the task's state (see taskState).
type taskConfig struct {
	// Exactly one of the two is set. Script is a path in the sandbox.
	Script  string
	Session *Session

	Args     []string
	CPUCores float64
	Limits   LimitDefaults
	Network  *NetworkPolicy // nil if the block is not there
	// Isolation is IsolationProcess, as which empty counts, or IsolationGVisor.
	Isolation string

	// Code is what Script shall hold, if it is not there already.
	Code string
}

// rawTaskConfig is the form of taskConfigSpec.
type rawTaskConfig struct {
	Script   string      `codec:"script"`
	Code     string      `codec:"code"`
	Args     []string    `codec:"args"`
	Session  *rawSession `codec:"session"`
	CPUCores any         `codec:"cpu_cores"`
	PidsMax  any         `codec:"pids_max"`
	Disk     any         `codec:"disk"`
	FilesMax any         `codec:"files_max"`
	Network  *rawPolicy  `codec:"network"`

	Isolation string `codec:"isolation"`
}

type rawPolicy struct {
	Mode  string   `codec:"mode"`
	Allow []string `codec:"allow"`
}

type rawSession struct {
	ID        string `codec:"id"`
	Epoch     any    `codec:"epoch"`
	ExpiresAt string `codec:"expires_at"`
	Slot      bool   `codec:"slot"`
}

// parseTaskConfig decodes and checks a task's `config` block.
func parseTaskConfig(cfg *drivers.TaskConfig, defaults LimitDefaults) (*taskConfig, error) {
	var raw rawTaskConfig
	if err := cfg.DecodeDriverConfig(&raw); err != nil {
		return nil, fmt.Errorf("decode task config: %w", err)
	}
	tc, err := raw.parse(defaults)
	if err != nil {
		return nil, fmt.Errorf("task config: %w", err)
	}
	return tc, nil
}

func (raw *rawTaskConfig) parse(defaults LimitDefaults) (*taskConfig, error) {
	tc := &taskConfig{Args: raw.Args}
	programs := 0
	for _, given := range []bool{raw.Script != "", raw.Code != "", raw.Session != nil} {
		if given {
			programs++
		}
	}
	if programs != 1 {
		return nil, fmt.Errorf("one of script, code or a session block is needed, got %d of them", programs)
	}
	var err error
	switch {
	case raw.Session != nil:
		if len(raw.Args) != 0 {
			return nil, errors.New("args are for script or code: a session has no program of its own")
		}
		if tc.Session, err = raw.Session.parse(); err != nil {
			return nil, fmt.Errorf("session: %w", err)
		}
	case raw.Script != "":
		if tc.Script, err = scriptPath(raw.Script); err != nil {
			return nil, fmt.Errorf("script %q: %w", raw.Script, err)
		}
	default:
		tc.Script, tc.Code = path.Join(localDir, codeFile), raw.Code
	}
	// A quota has a period of 100 ms, of which the kernel grants at least 1.
	if tc.CPUCores, err = decimal("cpu_cores", raw.CPUCores, 0, 0.01, 1024); err != nil {
		return nil, err
	}
	switch tc.Isolation = raw.Isolation; tc.Isolation {
	case "", IsolationProcess, IsolationGVisor:
	default:
		return nil, fmt.Errorf("isolation must be %q or %q, got %q", IsolationProcess, IsolationGVisor, raw.Isolation)
	}
	if raw.Network != nil {
		if _, err := network.ParsePolicy(raw.Network.Mode, raw.Network.Allow); err != nil {
			return nil, fmt.Errorf("network: %w", err)
		}
		tc.Network = &NetworkPolicy{Mode: raw.Network.Mode, Allow: raw.Network.Allow}
	}
	limits := rawLimits{PidsMax: raw.PidsMax, Disk: raw.Disk, FilesMax: raw.FilesMax}
	tc.Limits, err = limits.parse(defaults)
	return tc, err
}

var sessionID = regexp.MustCompile(`^ses_[a-z0-9]{20}$`)

func (raw *rawSession) parse() (*Session, error) {
	if !sessionID.MatchString(raw.ID) {
		return nil, fmt.Errorf(`id must be "ses_" and 20 of a-z and 0-9, got %q`, raw.ID)
	}
	epoch, err := whole("epoch", raw.Epoch, 0, 1, 1<<53)
	if err != nil {
		return nil, err
	}
	expires, err := time.Parse(time.RFC3339, raw.ExpiresAt)
	if err != nil {
		return nil, fmt.Errorf("expires_at must be a time such as 2026-01-31T12:00:00Z: %w", err)
	}
	if raw.Slot && epoch != 1 {
		return nil, fmt.Errorf("a slot has epoch 1, not %d", epoch)
	}
	return &Session{ID: raw.ID, Epoch: uint64(epoch), ExpiresAt: expires, Slot: raw.Slot}, nil
}

// scriptPath is the path in the sandbox of a script, which is given from the
// task directory ("local/app.ts") or as the sandbox sees it ("/local/app.ts",
// "${NOMAD_TASK_DIR}/app.ts").
func scriptPath(script string) (string, error) {
	if !path.IsAbs(script) {
		if !filepath.IsLocal(script) {
			return "", errors.New("leaves the task directory")
		}
		script = "/" + script
	}
	script = path.Clean(script)
	for _, dir := range []string{localDir, secretsDir, allocDir} {
		if strings.HasPrefix(script, dir+"/") {
			return script, nil
		}
	}
	return "", errors.New("is not in local, secrets or alloc of the task directory")
}
