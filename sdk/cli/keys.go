// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/buntime/buntime/frontend/consul"
	"github.com/buntime/buntime/frontend/keys"
	buntime "github.com/buntime/buntime/sdk/go"
)

// keyed is what -o json says of the key in use.
type keyed struct {
	URL       string    `json:"url"`
	Key       string    `json:"key"` // its beginning
	Sessions  int       `json:"sessions"`
	Limit     int       `json:"requestsAMinute"`
	Remaining int       `json:"remaining"`
	Reset     time.Time `json:"reset"`
}

func (a *app) newKeys() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Tell of the key in use; for operators, manage keys",
		Long: `Tell of the key in use: where it is for, how many sessions its account has, and
how many requests a minute it may make.

The commands below it are for operators. They are those of buntime-frontend keys,
and speak to the front-ends' Consul (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN): through
the API nobody can manage keys. BUNTIME_CONSUL_PREFIX is the folder in Consul's KV, if
the front-ends' configuration names one.`,
		Example: `  buntime keys
  buntime keys create -account acme -plan paid -expires 720h
  buntime keys list -json`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			url, key, err := a.where()
			if err != nil {
				return err
			}
			page, err := a.clientOf(url, key).List(cmd.Context(), buntime.ListOptions{Limit: 1})
			if err != nil {
				return err
			}
			a.rate.mu.Lock()
			k := keyed{url, key[:min(len(key), 8)] + "…", page.Total, a.rate.limit, a.rate.remaining, a.rate.reset.UTC()}
			a.rate.mu.Unlock()
			return a.print(k, func() error {
				return table(a.Out, []string{"KEY", k.Key}, [][]string{
					{"for", k.URL},
					{"sessions", fmt.Sprint(k.Sessions)},
					{"requests", fmt.Sprintf("%d of %d left until %s", k.Remaining, k.Limit, k.Reset.Local().Format(time.TimeOnly))},
				})
			})
		},
	}
	for name, short := range map[string]string{
		"create": "Make a key and print it, once: -account NAME [-plan NAME] [-limit NAME=VALUE]... [-label TEXT] [-expires TIME]",
		"list":   "List keys: [-account NAME] [-json]",
		"change": "Change a key's plan or limits: [-plan NAME] [-limit NAME=VALUE]... ID",
		"rotate": "Replace a key by a new one: [-grace TIME] ID",
		"revoke": "Take a key back: ID",
	} {
		cmd.AddCommand(&cobra.Command{
			Use: name, Short: short, DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, args []string) error {
				for _, arg := range args {
					if arg == "-h" || arg == "--help" || arg == "-help" {
						return cmd.Help()
					}
				}
				return a.manageKeys(cmd.Context(), append([]string{name}, args...))
			},
		})
	}
	return cmd
}

// keysTimeout bounds what takes some milliseconds.
const keysTimeout = 30 * time.Second

func (a *app) manageKeys(ctx context.Context, args []string) error {
	store, err := consul.NewStore(consul.Config{Prefix: a.Getenv("BUNTIME_CONSUL_PREFIX")}) // the rest is of Consul's own variables
	if err != nil {
		return err
	}
	defer store.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, keysTimeout, fmt.Errorf("no answer of Consul in %v", keysTimeout))
	defer cancel()
	return keys.Command(ctx, keys.NewManager(store), args, a.Out)
}
