// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/nomad/nomad/structs"

	"github.com/buntime/buntime/driver/calls"
	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/credentials"
	"github.com/buntime/buntime/driver/metrics"
)

// claimTimeout bounds the way to Consul and back: usually half a millisecond,
// some hundreds in a change of leader.
const claimTimeout = 2 * time.Second

// errClaimed says that an epoch of a session belongs to somebody already.
var errClaimed = errors.New("session is claimed")

// claimer makes an epoch of a session an allocation's own.
type claimer interface {
	// Claim stores c if nobody holds that epoch, and fails with errClaimed if
	// anybody does, be it the same allocation: the workspace of an earlier start
	// must not be taken for a new one.
	Claim(ctx context.Context, c claim.Claim) error
	// Rests is where snapshots of a session are noted.
	Rests(session string) Rests
}

// consulClaims keeps claims in Consul KV.
type consulClaims struct {
	kv     *api.KV
	prefix string
}

func newConsulKV(config ConsulConfig) (*api.KV, error) {
	settings := api.DefaultConfig()
	if config.Address != "" {
		settings.Address = config.Address
	}
	access := credentials.Consul(settings, credentials.Access{
		TokenFile: config.TokenFile, Files: config.TLS, ServerName: config.TLSServerName, Fail: config.Fail,
	}, config.Token)
	var err error
	if settings.HttpClient, err = access.Client(settings.Transport, credentials.ConsulToken); err != nil {
		return nil, fmt.Errorf("configure Consul client: %w", err)
	}
	settings.HttpClient.Transport = calls.Measured(settings.HttpClient.Transport, calls.Consul, metrics.Consul())
	client, err := api.NewClient(settings)
	if err != nil {
		return nil, fmt.Errorf("configure Consul client: %w", err)
	}
	return client.KV(), nil
}

func newConsulClaims(config ConsulConfig) (claimer, error) {
	kv, err := newConsulKV(config)
	if err != nil {
		return nil, err
	}
	return &consulClaims{kv: kv, prefix: config.Prefix}, nil
}

func (c *consulClaims) Claim(ctx context.Context, wanted claim.Claim) error {
	ctx, cancel := context.WithTimeoutCause(ctx, claimTimeout,
		fmt.Errorf("no answer from Consul within %s", claimTimeout))
	defer cancel()
	value, err := json.Marshal(wanted)
	if err != nil {
		return fmt.Errorf("encode claim: %w", err)
	}
	key := claim.Key(c.prefix, wanted.Session, wanted.Epoch)
	// A modify index of 0 is "create if absent". One attempt only: after an
	// error nobody knows whether the claim was stored, and if it was, a second
	// attempt would find it and could not tell it from an earlier start's.
	created, _, err := c.kv.CAS(&api.KVPair{Key: key, Value: value}, new(api.WriteOptions).WithContext(ctx))
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("claim epoch %d of session %s: %w", wanted.Epoch, wanted.Session, err)
	}
	if created {
		return nil
	}
	return fmt.Errorf("%w: epoch %d of session %s belongs to %s",
		errClaimed, wanted.Epoch, wanted.Session, c.holder(ctx, key, wanted.Alloc))
}

func (c *consulClaims) Rests(session string) Rests {
	return &consulRests{kv: c.kv, prefix: c.prefix, session: session}
}

// holder describes who has the claim at key, for the eyes of an operator.
func (c *consulClaims) holder(ctx context.Context, key, alloc string) string {
	pair, _, err := c.kv.Get(key, new(api.QueryOptions).WithContext(ctx))
	if err != nil || pair == nil {
		return "somebody else"
	}
	var held claim.Claim
	if err := json.Unmarshal(pair.Value, &held); err != nil {
		return "somebody else"
	}
	if held.Alloc == alloc {
		return "an earlier start of this allocation, whose workspace must not be used again"
	}
	return fmt.Sprintf("allocation %s on node %s", held.Alloc, held.Node)
}

// claimSession fences a session's task off before its sandbox exists. Consul
// out of reach is worth another attempt by the job's restart policy; a claim
// that is taken is final.
func claimSession(ctx context.Context, claims claimer, task *Task) error {
	err := claims.Claim(ctx, claim.Claim{
		Session: task.Session.ID,
		Epoch:   task.Session.Epoch,
		Alloc:   task.AllocID,
		Node:    task.NodeID,
		API:     task.API,
		Preview: task.Preview,
	})
	if err != nil && !errors.Is(err, errClaimed) {
		return structs.NewRecoverableError(err, true)
	}
	return err
}
