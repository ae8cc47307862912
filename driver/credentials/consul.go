// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package credentials

import (
	"cmp"
	"strings"

	"github.com/hashicorp/consul/api"
)

// ConsulToken is the header of Consul's tokens.
const ConsulToken = "X-Consul-Token"

// Consul is a, with what it lacks from Consul's usual environment variables, which conf
// has. token is one that stands in the configuration; conf gets it. Where files are named
// an address without a scheme is one of TLS: a token does not go out in the clear because
// of eight characters that were left out.
func Consul(conf *api.Config, a Access, token string) Access {
	if a.TokenFile == "" && token == "" {
		a.TokenFile = conf.TokenFile
	}
	conf.TokenFile = a.TokenFile // for an address that is a socket
	conf.Token = cmp.Or(token, conf.Token)
	env := conf.TLSConfig
	if a.Files.None() {
		a.Files = Files{CA: env.CAFile, CAPath: env.CAPath, Cert: env.CertFile, Key: env.KeyFile}
	} else if !strings.Contains(conf.Address, "://") {
		conf.Scheme = "https"
	}
	a.Files.Insecure = env.InsecureSkipVerify
	a.ServerName = cmp.Or(a.ServerName, env.Address)
	return a
}
