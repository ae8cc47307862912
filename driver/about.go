// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package driver is the Nomad task driver "bun". It speaks Nomad's driver
// interface, decides what a task may be and keeps track of the tasks of this
// node; how a sandbox is made and served is the Runtime's.
//
// A task is either a session, which has no program of its own and is served by
// the node agent, or an ordinary Bun job with a script or inline code.
package driver

import (
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/fsisolation"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
)

const (
	// Name is what a job says in `driver = "bun"`.
	Name = "bun"

	// Version of the plugin, as Nomad shows it.
	Version = "0.1.0"
)

var pluginInfo = &base.PluginInfoResponse{
	Type:              base.PluginTypeDriver,
	PluginApiVersions: []string{drivers.ApiVersion010},
	PluginVersion:     Version,
	Name:              Name,
}

// capabilities are chosen as follows. With FSIsolation Image Nomad builds no
// chroot, passes none of its own environment on and names the task's
// directories /local, /secrets and /alloc, where the sandbox mounts them.
// Network mode "host" gives the sandbox a network namespace of its own all the
// same; "bridge", "none" and CNI are all "group" to a driver, and the sandbox
// then joins the allocation's namespace. Volumes, devices and users are
// refused at start: the plugin protocol of Nomad 1.11 does not carry
// MountConfigs. Log collection stays on, because what disables it disables it
// for every task of a driver; a job does so with `logs { disabled = true }`.
var capabilities = &drivers.Capabilities{
	SendSignals: true,
	Exec:        true,
	FSIsolation: fsisolation.Image,
	NetIsolationModes: []drivers.NetIsolationMode{
		drivers.NetIsolationModeHost,
		drivers.NetIsolationModeGroup,
	},
	MountConfigs: drivers.MountConfigSupportNone,
}

// pluginConfigSpec is the `config` block of `plugin "nomad-driver-bun"` in the
// Nomad agent's configuration. Defaults are set in config.go: a default in the
// specification would not reach a block that is absent.
var pluginConfigSpec = hclspec.NewObject(map[string]*hclspec.Spec{
	"rootfs":               hclspec.NewAttr("rootfs", "string", false),
	"bun":                  hclspec.NewAttr("bun", "string", false),
	"init":                 hclspec.NewAttr("init", "string", false),
	"state_dir":            hclspec.NewAttr("state_dir", "string", false),
	"runsc":                hclspec.NewAttr("runsc", "string", false),
	"node_secret":          hclspec.NewAttr("node_secret", "string", false),
	"node_secret_file":     hclspec.NewAttr("node_secret_file", "string", false),
	"old_node_secret":      hclspec.NewAttr("old_node_secret", "string", false),
	"old_node_secret_file": hclspec.NewAttr("old_node_secret_file", "string", false),
	"preview_access":       hclspec.NewAttr("preview_access", "string", false),
	"runner_memory":        hclspec.NewAttr("runner_memory", "number", false),
	"metrics": hclspec.NewBlock("metrics", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"address":    hclspec.NewAttr("address", "string", false),
		"token":      hclspec.NewAttr("token", "string", false),
		"token_file": hclspec.NewAttr("token_file", "string", false),
	})),
	"consul": hclspec.NewBlock("consul", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"address":         hclspec.NewAttr("address", "string", false),
		"token":           hclspec.NewAttr("token", "string", false),
		"token_file":      hclspec.NewAttr("token_file", "string", false),
		"ca_file":         hclspec.NewAttr("ca_file", "string", false),
		"cert_file":       hclspec.NewAttr("cert_file", "string", false),
		"key_file":        hclspec.NewAttr("key_file", "string", false),
		"tls_server_name": hclspec.NewAttr("tls_server_name", "string", false),
		"prefix":          hclspec.NewAttr("prefix", "string", false),
	})),
	"tls": hclspec.NewBlock("tls", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"ca_file":   hclspec.NewAttr("ca_file", "string", false),
		"cert_file": hclspec.NewAttr("cert_file", "string", false),
		"key_file":  hclspec.NewAttr("key_file", "string", false),
	})),
	"network": hclspec.NewBlock("network", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"pool":       hclspec.NewAttr("pool", "string", false),
		"deny":       hclspec.NewAttr("deny", "list(string)", false),
		"allow":      hclspec.NewAttr("allow", "list(string)", false),
		"resolvers":  hclspec.NewAttr("resolvers", "list(string)", false),
		"conn_rate":  hclspec.NewAttr("conn_rate", "number", false),
		"conn_burst": hclspec.NewAttr("conn_burst", "number", false),
		"conn_max":   hclspec.NewAttr("conn_max", "number", false),
	})),
	"ids": hclspec.NewBlock("ids", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"first": hclspec.NewAttr("first", "number", false),
		"last":  hclspec.NewAttr("last", "number", false),
	})),
	"session": hclspec.NewBlock("session", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"idle_after":       hclspec.NewAttr("idle_after", "string", false),
		"sleep_after":      hclspec.NewAttr("sleep_after", "string", false),
		"checkpoint_every": hclspec.NewAttr("checkpoint_every", "string", false),
	})),
	"store": hclspec.NewBlock("store", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"dir": hclspec.NewAttr("dir", "string", false),
		"swift": hclspec.NewBlock("swift", false, hclspec.NewObject(map[string]*hclspec.Spec{
			"auth_url":               hclspec.NewAttr("auth_url", "string", true),
			"user":                   hclspec.NewAttr("user", "string", false),
			"key":                    hclspec.NewAttr("key", "string", false),
			"key_file":               hclspec.NewAttr("key_file", "string", false),
			"domain":                 hclspec.NewAttr("domain", "string", false),
			"tenant":                 hclspec.NewAttr("tenant", "string", false),
			"tenant_domain":          hclspec.NewAttr("tenant_domain", "string", false),
			"credential_id":          hclspec.NewAttr("credential_id", "string", false),
			"credential_secret":      hclspec.NewAttr("credential_secret", "string", false),
			"credential_secret_file": hclspec.NewAttr("credential_secret_file", "string", false),
			"region":                 hclspec.NewAttr("region", "string", false),
			"container":              hclspec.NewAttr("container", "string", true),
		})),
	})),
	"defaults": hclspec.NewBlock("defaults", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"pids_max":  hclspec.NewAttr("pids_max", "number", false),
		"disk":      hclspec.NewAttr("disk", "number", false),
		"files_max": hclspec.NewAttr("files_max", "number", false),
	})),
})

// taskConfigSpec is the `config` block of a task.
var taskConfigSpec = hclspec.NewObject(map[string]*hclspec.Spec{
	"script": hclspec.NewAttr("script", "string", false),
	"code":   hclspec.NewAttr("code", "string", false),
	"args":   hclspec.NewAttr("args", "list(string)", false),
	"session": hclspec.NewBlock("session", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"id":         hclspec.NewAttr("id", "string", true),
		"epoch":      hclspec.NewAttr("epoch", "number", true),
		"expires_at": hclspec.NewAttr("expires_at", "string", true),
		"slot":       hclspec.NewAttr("slot", "bool", false),
	})),
	"network": hclspec.NewBlock("network", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"mode":  hclspec.NewAttr("mode", "string", false),
		"allow": hclspec.NewAttr("allow", "list(string)", false),
	})),
	"cpu_cores": hclspec.NewAttr("cpu_cores", "number", false),
	"pids_max":  hclspec.NewAttr("pids_max", "number", false),
	"disk":      hclspec.NewAttr("disk", "number", false),
	"files_max": hclspec.NewAttr("files_max", "number", false),
	"isolation": hclspec.NewAttr("isolation", "string", false),
})
