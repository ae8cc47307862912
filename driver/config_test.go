// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/shoenig/test/must"

	"github.com/buntime/buntime/driver/credentials"
	"github.com/buntime/buntime/driver/metrics"
)

// builtin are the limits of a node whose configuration names none.
var builtin = LimitDefaults{PidsMax: DefaultPidsMax, DiskMB: DefaultDiskMB, FilesMax: DefaultFilesMax}

// encode takes a block the way that Nomad does: HCL, the schema, MessagePack.
func encode(t *testing.T, spec *hclspec.Spec, hcl string) (*drivers.TaskConfig, error) {
	t.Helper()
	block := hclutils.HclConfigToInterface(t, "config {\n"+hcl+"\n}")
	schema, diags := hclspecutils.Convert(spec)
	must.False(t, diags.HasErrors(), must.Sprint(diags))
	value, diags, errs := hclutils.ParseHclInterface(block, schema, nil)
	if diags.HasErrors() {
		return nil, errs[0]
	}
	cfg := new(drivers.TaskConfig)
	return cfg, cfg.EncodeDriverConfig(value)
}

func parsePluginHCL(t *testing.T, hcl string) (*Config, error) {
	t.Helper()
	encoded, err := encode(t, pluginConfigSpec, hcl)
	if err != nil {
		return nil, err
	}
	var decoded map[string]any
	must.NoError(t, encoded.DecodeDriverConfig(&decoded))
	var data []byte
	must.NoError(t, base.MsgPackEncode(&data, decoded))
	return parseConfig(data)
}

func TestPluginConfigDefaults(t *testing.T) {
	t.Setenv(secretEnv, "")
	for _, hcl := range []string{"", "consul {}\nnetwork {}\ndefaults {}"} {
		config, err := parsePluginHCL(t, hcl)
		must.NoError(t, err)
		must.Eq(t, "/usr/local/bin/bun", config.Bun)
		must.Eq(t, "/var/lib/buntime", config.StateDir)
		must.StrHasSuffix(t, "/libexec/buntime-init", config.Init)
		must.StrHasSuffix(t, "/libexec/buntime-restorer", config.Restorer)
		must.Eq(t, "", config.Rootfs)
		must.Eq(t, 0, len(config.NodeSecret))
		must.Eq(t, AccessAny, config.PreviewAccess)
		must.Eq(t, ConsulConfig{Prefix: "buntime"}, config.Consul)
		must.Eq(t, "198.18.0.0/15", config.Network.Pool.String())
		must.Eq(t, IDRange{First: 0x10000000, Last: 0x7ffdffff}, config.IDs)
		must.Eq(t, builtin, config.Defaults)
	}
	_, err := parseConfig(nil) // an agent without a block for the plugin
	must.NoError(t, err)
}

func TestPluginMetrics(t *testing.T) {
	config, err := parsePluginHCL(t, `metrics {
		address = "10.0.0.7:9464"
		token   = "0123456789abcdef"
	}`)
	must.NoError(t, err)
	must.Eq(t, metrics.Config{Address: "10.0.0.7:9464", Token: "0123456789abcdef"}, config.Metrics)
	_, err = parsePluginHCL(t, `metrics { address = "10.0.0.7:9464" }`)
	must.ErrorContains(t, err, "metrics: address 10.0.0.7:9464 is open to other machines")
}

func TestPluginConfig(t *testing.T) {
	t.Setenv(secretEnv, "from the environment")
	config, err := parsePluginHCL(t, `
		rootfs = "/srv/rootfs"
		bun = "/bin/bun"
		init = "/opt/init"
		state_dir = "/srv/state"
		node_secret = "0123456789abcdef"
		preview_access = "front-end"
		runsc = "/opt/runsc"
		consul {
			address = "127.0.0.1:8501"
			token = "t"
			prefix = "/tools/buntime/"
		}
		network {
			pool = "10.99.0.7/16"
			deny = ["203.0.113.7/24", "2001:db8::/32"]
			allow = ["10.1.2.3/32", "192.168.7.9/24"]
			conn_rate = 10
			conn_burst = 50
			conn_max = 64
			resolvers = ["9.9.9.9", "127.0.0.1:8600", "2001:db8::1"]
		}
		ids {
			first = 1000000
			last = 2000000
		}
		defaults {
			pids_max = 100
			disk = 2048
			files_max = 1000
		}`)
	must.NoError(t, err)
	must.Eq(t, "/srv/rootfs", config.Rootfs)
	must.Eq(t, "/bin/bun", config.Bun)
	must.Eq(t, "/opt/runsc", config.Runsc)
	must.True(t, config.RunscGiven)
	must.Eq(t, "/opt/init", config.Init)
	must.Eq(t, "/srv/state", config.StateDir)
	must.Eq(t, "0123456789abcdef", string(config.NodeSecret))
	must.Eq(t, AccessFrontEnd, config.PreviewAccess)
	must.Eq(t, ConsulConfig{Address: "127.0.0.1:8501", Token: "t", Prefix: "tools/buntime"}, config.Consul)
	must.Eq(t, netip.MustParsePrefix("10.99.0.0/16"), config.Network.Pool)
	must.Eq(t, []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/32")}, config.Network.Deny)
	must.Eq(t, []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32"), netip.MustParsePrefix("192.168.7.0/24")}, config.Network.Allow)
	must.Eq(t, [3]uint32{10, 50, 64}, [3]uint32{config.Network.ConnRate, config.Network.ConnBurst, config.Network.ConnMax})
	must.Eq(t, []netip.AddrPort{
		netip.MustParseAddrPort("9.9.9.9:53"),
		netip.MustParseAddrPort("127.0.0.1:8600"),
		netip.MustParseAddrPort("[2001:db8::1]:53"),
	}, config.Network.Resolvers)
	must.Eq(t, IDRange{First: 1000000, Last: 2000000}, config.IDs)
	must.Eq(t, LimitDefaults{PidsMax: 100, DiskMB: 2048, FilesMax: 1000}, config.Defaults)

	config, err = parsePluginHCL(t, "")
	must.NoError(t, err)
	must.Eq(t, "from the environment", string(config.NodeSecret))
}

// TestPluginConfigOfACluster: what docs/cluster.md has for nodes is a configuration.
func TestPluginConfigOfACluster(t *testing.T) {
	doc, err := os.ReadFile("../docs/cluster.md")
	must.NoError(t, err)
	block := regexp.MustCompile("(?s)plugin \"nomad-driver-bun\" \\{\n  config \\{\n(.*?)\n  \\}\n\\}\n").FindSubmatch(doc)
	must.NotNil(t, block)
	dir := t.TempDir()
	must.NoError(t, os.WriteFile(dir+"/consul-node.token", []byte("t\n"), 0o600))
	config, err := parsePluginHCL(t, strings.NewReplacer(`"…"`, `"0123456789abcdef"`, "/etc/buntime", dir).Replace(string(block[1])))
	must.NoError(t, err)
	must.Eq(t, credentials.Files{CA: dir + "/ca.pem", Cert: dir + "/node.pem", Key: dir + "/node-key.pem"}, config.TLS)
	must.Eq(t, AccessFrontEnd, config.PreviewAccess)
	must.Eq(t, dir+"/consul-node.token", config.Consul.TokenFile)
	must.Eq(t, dir+"/cluster-ca.pem", config.Consul.TLS.CA)
	must.Eq(t, "https://127.0.0.1:8501", config.Consul.Address)
}

func TestPluginConfigErrors(t *testing.T) {
	for hcl, want := range map[string]string{
		`rootfs = "srv"`:                       `rootfs must be an absolute path, got "srv"`,
		`bun = "bun"`:                          `bun must be an absolute path`,
		`init = "init"`:                        `init must be an absolute path`,
		`state_dir = "state"`:                  `state_dir must be an absolute path`,
		`node_secret = "short"`:                `node_secret must have at least 16 characters, got 5`,
		`old_node_secret = "0123456789abcdef"`: `old_node_secret is a node_secret's predecessor`,
		`tls { ca_file = "" cert_file = "/b" key_file = "/c" }`:  `tls: ca_file is missing`,
		`tls { ca_file = "/a" cert_file = "" key_file = "/c" }`:  `tls: cert_file and key_file are both needed`,
		`tls { ca_file = "a" cert_file = "/b" key_file = "/c" }`: `tls: ca_file must be an absolute path`,
		`preview_access = "nobody"`:                              `preview_access is "any" or "front-end"`,
		`network { pool = "10.0.0.0" }`:                          `network: pool must be a range such as`,
		`network { pool = "2001:db8::/64" }`:                     `pool must be an IPv4 range`,
		`network { pool = "10.0.0.0/31" }`:                       `pool must be an IPv4 range`,
		`network { deny = ["10.0.0.1"] }`:                        `deny must hold ranges`,
		`network { allow = ["10.0.0.1"] }`:                       `allow must hold ranges`,
		`network { allow = ["169.254.169.254/32"] }`:             `allow 169.254.169.254/32: metadata services, special addresses and the sandboxes themselves have no exceptions`,
		`network { allow = ["203.0.113.0/24"] }`:                 `is open already`,
		`network { allow = ["fd00::/8"] }`:                       `want an IPv4 range`,
		`network { conn_rate = 0 }`:                              `conn_rate must be a whole number from 1 to`,
		`network { conn_burst = 1.5 }`:                           `conn_burst must be a whole number`,
		`network { conn_max = -1 }`:                              `conn_max must be a whole number`,
		`network { resolvers = ["dns.local"] }`:                  `resolvers must hold IP addresses`,
		`ids { first = 1000 }`:                                   `ids: first must be a whole number from 65536 to 2147483647, got 1000`,
		`ids { last = 2147483648 }`:                              `ids: last must be a whole number`,
		"ids {\n first = 100000\n last = 165534\n}":              `ids: a sandbox needs 65536 ids, first to last are 65535`,
		`ids { last = 100000 }`:                                  `ids: a sandbox needs 65536 ids`,
		`defaults { pids_max = 1 }`:                              `defaults: pids_max must be a whole number from 16 to`,
		`defaults { disk = 0.5 }`:                                `disk must be a whole number from 16 to`,
		`defaults { files_max = -1 }`:                            `files_max must be a whole number from 64 to`,
		`rootfz = "/srv"`:                                        `rootfz`,
		`defaults { pids_max = "plenty" }`:                       `number`,
	} {
		_, err := parsePluginHCL(t, hcl)
		must.ErrorContains(t, err, want, must.Sprint(hcl))
	}
}

func parseTaskHCL(t *testing.T, hcl string) (*taskConfig, error) {
	t.Helper()
	cfg, err := encode(t, taskConfigSpec, hcl)
	if err != nil {
		return nil, err
	}
	return parseTaskConfig(cfg, builtin)
}

func TestTaskConfig(t *testing.T) {
	const session = `session {
		id = "ses_abcdefghij0123456789"
		epoch = 3
		expires_at = "2100-01-02T03:04:05Z"
	}`
	for hcl, want := range map[string]*taskConfig{
		`script = "local/app.ts"`:               {Script: "/local/app.ts", Limits: builtin},
		`script = "./local/src/../app.ts"`:      {Script: "/local/app.ts", Limits: builtin},
		`script = "/secrets/app.ts"`:            {Script: "/secrets/app.ts", Limits: builtin},
		`script = "alloc/data/app.ts"`:          {Script: "/alloc/data/app.ts", Limits: builtin},
		`code = "1"`:                            {Script: "/local/.code.ts", Code: "1", Limits: builtin},
		"code = \"1\"\nargs = [\"a\", \"b c\"]": {Script: "/local/.code.ts", Code: "1", Args: []string{"a", "b c"}, Limits: builtin},
		session: {
			Session: &Session{ID: "ses_abcdefghij0123456789", Epoch: 3, ExpiresAt: time.Date(2100, 1, 2, 3, 4, 5, 0, time.UTC)},
			Limits:  builtin,
		},
		// A float64 holds 0.25 but not 0.1, which Nomad encodes as text.
		"code = \"1\"\ncpu_cores = 0.25":  {Script: "/local/.code.ts", Code: "1", CPUCores: 0.25, Limits: builtin},
		"code = \"1\"\ncpu_cores = 0.1":   {Script: "/local/.code.ts", Code: "1", CPUCores: 0.1, Limits: builtin},
		"code = \"1\"\ncpu_cores = 2":     {Script: "/local/.code.ts", Code: "1", CPUCores: 2, Limits: builtin},
		"code = \"1\"\ncpu_cores = \"3\"": {Script: "/local/.code.ts", Code: "1", CPUCores: 3, Limits: builtin},
		"code = \"1\"\npids_max = 64\ndisk = 5120\nfiles_max = 256": {
			Script: "/local/.code.ts", Code: "1", Limits: LimitDefaults{PidsMax: 64, DiskMB: 5120, FilesMax: 256},
		},
		"code = \"1\"\nisolation = \"gvisor\"": {
			Script: "/local/.code.ts", Code: "1", Limits: builtin, Isolation: IsolationGVisor,
		},
		"code = \"1\"\nnetwork {\n mode = \"none\"\n}": {
			Script: "/local/.code.ts", Code: "1", Limits: builtin, Network: &NetworkPolicy{Mode: "none"},
		},
		"code = \"1\"\nnetwork {}": {Script: "/local/.code.ts", Code: "1", Limits: builtin, Network: &NetworkPolicy{}},
		session + "\nnetwork {\n mode = \"allow\"\n allow = [\"*.example.com\", \"203.0.113.0/24\"]\n}": {
			Session: &Session{ID: "ses_abcdefghij0123456789", Epoch: 3, ExpiresAt: time.Date(2100, 1, 2, 3, 4, 5, 0, time.UTC)},
			Limits:  builtin, Network: &NetworkPolicy{Mode: "allow", Allow: []string{"*.example.com", "203.0.113.0/24"}},
		},
	} {
		got, err := parseTaskHCL(t, hcl)
		must.NoError(t, err, must.Sprint(hcl))
		must.Eq(t, want, got, must.Sprint(hcl))
	}
}

func TestTaskConfigErrors(t *testing.T) {
	session := func(id, epoch, expires string) string {
		return "session {\n id = " + id + "\n epoch = " + epoch + "\n expires_at = " + expires + "\n}"
	}
	id, expires := `"ses_abcdefghij0123456789"`, `"2100-01-02T03:04:05Z"`
	slot := strings.Replace(session(id, "2", expires), "\n}", "\n slot = true\n}", 1)
	for hcl, want := range map[string]string{
		``:                                      `one of script, code or a session block is needed, got 0`,
		"script = \"local/a.ts\"\ncode = \"1\"": `got 2 of them`,
		"code = \"1\"\n" + session(id, "1", expires):        `got 2 of them`,
		`script = "../app.ts"`:                              `script "../app.ts": leaves the task directory`,
		`script = "local/../../app.ts"`:                     `leaves the task directory`,
		`script = "/etc/passwd"`:                            `is not in local, secrets or alloc`,
		`script = "/local/../etc/app.ts"`:                   `is not in local, secrets or alloc`,
		`script = "app.ts"`:                                 `is not in local, secrets or alloc`,
		`script = "local"`:                                  `is not in local, secrets or alloc`,
		"args = [\"a\"]\n" + session(id, "1", expires):      `args are for script or code`,
		session(`"ses_short"`, "1", expires):                `session: id must be "ses_" and 20 of a-z and 0-9, got "ses_short"`,
		session(`"ses_ABCDEFGHIJ0123456789"`, "1", expires): `id must be`,
		session(id, "0", expires):                           `session: epoch must be a whole number from 1 to`,
		session(id, "1.5", expires):                         `epoch must be a whole number`,
		slot:                                                `session: a slot has epoch 1, not 2`,
		session(id, "1", `"tomorrow"`):                      `session: expires_at must be a time such as`,
		`session { epoch = 1 }`:                             `Missing required argument`,
		"code = \"1\"\ncpu_cores = 0":                       `cpu_cores must be a number from 0.01 to 1024, got 0`,
		"code = \"1\"\ncpu_cores = -0.1":                    `cpu_cores must be`,
		"code = \"1\"\npids_max = 15":                       `pids_max must be a whole number from 16 to 4194304, got 15`,
		"code = \"1\"\ndisk = 1":                            `disk must be`,
		"code = \"1\"\nfiles_max = 2000000":                 `files_max must be`,
		"code = \"1\"\nisolation = \"vm\"":                  `isolation must be "process" or "gvisor", got "vm"`,
		"code = \"1\"\nnetwork { mode = \"open\" }":         `network: mode must be "none", "internet" or "allow", got "open"`,
		"code = \"1\"\nnetwork { mode = \"allow\" }":        `network: mode "allow" needs an allow list`,
		"code = \"1\"\nnetwork { allow = [\"a.example\"] }": `network: allow is for mode "allow"`,
		"code = \"1\"\nnetwork {\n mode = \"allow\"\n allow = [\"http://a.example\"]\n}": `network: allow "http://a.example": want a name`,
		"code = \"1\"\nimage = \"oven/bun\"":                                             `image`,
	} {
		_, err := parseTaskHCL(t, hcl)
		must.ErrorContains(t, err, want, must.Sprint(hcl))
		must.False(t, strings.Contains(err.Error(), "msgpack"), must.Sprint(err))
	}
}
