// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/shoenig/test/must"
)

// setting is what a setting of the example is behind "#", as prose is not.
var setting = regexp.MustCompile(`(?m)^([ ]*)# ([a-z_]+ = .*|[a-z]+ \{|\})$`)

// TestExample: plugins/nomad-driver-bun/client.hcl has every setting of the plugin, each with
// its default.
func TestExample(t *testing.T) {
	t.Setenv(secretEnv, "")
	text, err := os.ReadFile("../plugins/nomad-driver-bun/client.hcl")
	must.NoError(t, err)
	_, body, ok := strings.Cut(string(text), "\n  config {\n")
	must.True(t, ok)
	body, _, ok = strings.Cut(body, "\n  }\n}\n")
	must.True(t, ok)

	want, err := parsePluginHCL(t, `rootfs = "/opt/buntime/rootfs"`)
	must.NoError(t, err)
	got, err := parsePluginHCL(t, body)
	must.NoError(t, err)
	must.Eq(t, want, got)

	all := setting.ReplaceAllString(body, "$1$2")
	encoded, err := encode(t, pluginConfigSpec, all)
	must.NoError(t, err)
	var decoded map[string]any
	must.NoError(t, encoded.DecodeDriverConfig(&decoded))
	has(t, "", pluginConfigSpec, decoded)

	// A store is one or the other.
	before, after, ok := strings.Cut(all, "      swift {\n")
	must.True(t, ok)
	_, after, ok = strings.Cut(after, "      }\n")
	must.True(t, ok)
	got, err = parsePluginHCL(t, before+after)
	must.NoError(t, err)
	want.RunnerMemory = got.RunnerMemory // a part of the node's
	must.Eq(t, uint32(100), got.Network.ConnRate)
	must.Eq(t, uint32(500), got.Network.ConnBurst)
	must.Eq(t, uint32(1024), got.Network.ConnMax)
	want.Network.ConnRate, want.Network.ConnBurst, want.Network.ConnMax = 100, 500, 1024
	must.Eq(t, want, got)
}

// has wants every setting of a specification, but for those that name files of secrets.
func has(t *testing.T, path string, spec *hclspec.Spec, given map[string]any) {
	t.Helper()
	for name, s := range spec.GetObject().Attributes {
		if strings.HasSuffix(name, "_file") {
			continue
		}
		value, ok := given[name]
		if !ok || value == nil {
			t.Errorf("the example has no %s%s", path, name)
			continue
		}
		block := s.GetBlockValue()
		if block == nil {
			continue
		}
		inner, ok := value.(map[string]any)
		if !ok {
			t.Errorf("the example's %s%s is no block but %T", path, name, value)
			continue
		}
		has(t, path+name+".", block.GetNested(), inner)
	}
}

// TestSecretsInFiles: they may be there instead of in the configuration.
func TestSecretsInFiles(t *testing.T) {
	t.Setenv(secretEnv, "")
	path := filepath.Join(t.TempDir(), "secret")
	must.NoError(t, os.WriteFile(path, []byte("0123456789abcdef\n"), 0o600))
	config, err := parsePluginHCL(t, `
		node_secret_file = "`+path+`"
		consul { token_file = "`+path+`" }
		store { swift {
			auth_url = "http://a"
			container = "c"
			key_file = "`+path+`"
			credential_secret_file = "`+path+`"
		} }`)
	must.NoError(t, err)
	for _, got := range []string{string(config.NodeSecret), config.Consul.Token, config.Store.Swift.Key, config.Store.Swift.CredentialSecret} {
		must.Eq(t, "0123456789abcdef", got)
	}
	for text, want := range map[string]string{
		`node_secret_file = "/nowhere"`:                                                 "/nowhere",
		`consul { token_file = "/dev/null" }`:                                           "empty",
		`node_secret_file = "` + path + `"` + "\n" + `node_secret = "fedcba9876543210"`: "both",
	} {
		_, err := parsePluginHCL(t, text)
		must.ErrorContains(t, err, want)
	}
}
