// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// settings are where the API is, and the key.
type settings struct {
	flagURL, flagKey string
}

// The names that the TypeScript client has, too.
const (
	envURL = "BUNTIME_BASE_URL"
	envKey = "BUNTIME_API_KEY"
)

// saved is the configuration file.
type saved struct {
	URL string `json:"url"`
	Key string `json:"key"`
}

// configPath is the configuration file: below XDG_CONFIG_HOME or ~/.config.
func (a *app) configPath() (string, error) {
	if dir := a.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "buntime", "config"), nil
	}
	home := a.Getenv("HOME")
	if home == "" {
		return "", errors.New("find the configuration file: HOME is not set")
	}
	return filepath.Join(home, ".config", "buntime", "config"), nil
}

// readConfig reads the configuration file; one that is not there is empty.
func (a *app) readConfig() (saved, error) {
	var c saved
	path, err := a.configPath()
	if err != nil {
		return c, nil // there is none: the environment may do
	}
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, nil
	case err != nil:
		return c, fmt.Errorf("read configuration: %w", err)
	}
	if st, err := os.Stat(path); err == nil && st.Mode().Perm()&0o077 != 0 {
		fmt.Fprintf(a.Err, "buntime: others can read the key in %s: chmod 600 it\n", path)
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return c, fmt.Errorf("read configuration %s: %w; buntime login writes it anew", path, err)
	}
	return c, nil
}

// writeConfig replaces the configuration file, for its owner alone.
func (a *app) writeConfig(c saved) (path string, err error) {
	if path, err = a.configPath(); err != nil {
		return "", err
	}
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode configuration: %w", err)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make folder of the configuration: %w", err)
	}
	f, err := os.CreateTemp(dir, "config-*") // for its owner alone
	if err != nil {
		return "", fmt.Errorf("write configuration: %w", err)
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("write configuration: %w", err), os.Remove(f.Name()))
	}
	return path, nil
}

// where says where the API is and which key to use. A key goes only to the address
// that it was given with: one from the configuration is not sent to another's.
func (a *app) where() (url, key string, err error) {
	c, err := a.readConfig()
	if err != nil && (first(a.flagURL, a.Getenv(envURL)) == "" || first(a.flagKey, a.Getenv(envKey)) == "") {
		return "", "", err
	}
	url, key = first(a.flagURL, a.Getenv(envURL)), first(a.flagKey, a.Getenv(envKey))
	if key == "" && (url == "" || url == c.URL) {
		key = c.Key
	}
	url = first(url, c.URL)
	switch {
	case url == "":
		return "", "", errors.New("it is not known where the API is: run buntime login URL, or set " + envURL + " and " + envKey)
	case key == "":
		return "", "", fmt.Errorf("there is no API key for %s: run buntime login %s, or set %s", url, url, envKey)
	}
	return url, key, nil
}

func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}
