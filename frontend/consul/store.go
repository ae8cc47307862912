// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package consul keeps session records in Consul KV, and elects the leader there.
//
// Below the prefix lie sessions/<id>, the records; accounts/<account>/<id>,
// an index entry for each, written in one transaction with its record; slots/<id>,
// the slots that nobody has taken yet; claims/<id>/<epoch>, which nodes write
// (package claim); and leader, the lock of
// the front-end that leads.
package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/credentials"
	"github.com/buntime/buntime/frontend"
)

// Consul takes 200 connections from one client address by default
// (limits.http_max_conns_per_client) and a blocking query holds one. Some are
// left for whatever else runs on this machine.
const (
	connections         = 40
	waitConnections     = 120
	electionConnections = 4
)

// maxOps is what Consul takes in one transaction.
const maxOps = 64

// Store implements frontend.Store.
type Store struct {
	prefix     string
	client     *api.Client // for what is answered at once
	wait       *api.Client // for blocking queries, so that they hold up nothing else
	transports [2]*http.Transport

	tryWrite sync.Mutex
	wrote    time.Time // when Ready did
}

var _ frontend.Store = (*Store)(nil)

// Config says where Consul is.
type Config struct {
	// Address is host:port or a URL; empty is Consul's own default.
	Address string `json:"address"`
	Token   string `json:"token" secret:"true"`
	// TokenFile has the token instead, and CAFile, CertFile and KeyFile are of TLS. They
	// are read anew when they change. ServerName is what Consul's certificate is for, if
	// not the host of Address.
	TokenFile  string `json:"-"`
	CAFile     string `json:"ca_file"`
	CertFile   string `json:"cert_file"`
	KeyFile    string `json:"key_file"`
	ServerName string `json:"tls_server_name"`
	// Prefix is the folder in KV below which everything lies; empty is
	// claim.DefaultPrefix. Nodes must have the same.
	Prefix string `json:"prefix"`
	// Measure, if set, is between us and Consul, for metrics.
	Measure func(http.RoundTripper) http.RoundTripper `json:"-"`
	// Fail, which may be nil, is told of files that cannot be used any more.
	Fail func(error) `json:"-"`
}

// NewStore makes a Store. It does not connect yet.
func NewStore(c Config) (*Store, error) {
	if c.Prefix == "" {
		c.Prefix = claim.DefaultPrefix
	}
	s := &Store{prefix: strings.Trim(c.Prefix, "/"), transports: [2]*http.Transport{transport(connections), transport(waitConnections)}}
	var err error
	if s.client, err = newClient(c, s.transports[0]); err != nil {
		return nil, err
	}
	if s.wait, err = newClient(c, s.transports[1]); err != nil {
		return nil, err
	}
	return s, nil
}

func newClient(c Config, t *http.Transport) (*api.Client, error) {
	conf := api.DefaultConfig()
	if c.Address != "" {
		conf.Address = c.Address
	}
	access := credentials.Consul(conf, credentials.Access{
		TokenFile: c.TokenFile, Files: credentials.Files{CA: c.CAFile, Cert: c.CertFile, Key: c.KeyFile},
		ServerName: c.ServerName, Fail: c.Fail,
	}, c.Token)
	conf.Transport = t
	var err error
	if conf.HttpClient, err = access.Client(t, credentials.ConsulToken); err != nil {
		return nil, fmt.Errorf("make Consul client for %s: %w", c.Address, err)
	}
	if c.Measure != nil {
		conf.HttpClient.Transport = c.Measure(conf.HttpClient.Transport)
	}
	client, err := api.NewClient(conf)
	if err != nil {
		return nil, fmt.Errorf("make Consul client for %s: %w", c.Address, err)
	}
	return client, nil
}

func transport(conns int) *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		MaxConnsPerHost:     conns,
		MaxIdleConnsPerHost: conns,
		IdleConnTimeout:     90 * time.Second,
	}
}

// Close closes idle connections.
func (s *Store) Close() {
	for _, t := range s.transports {
		t.CloseIdleConnections()
	}
}

func (s *Store) record(id string) string       { return s.prefix + "/sessions/" + id }
func (s *Store) account(account string) string { return s.prefix + "/accounts/" + account + "/" }
func (s *Store) entry(r *frontend.Session) string {
	return s.account(r.Account) + r.ID
}

// latest is for reads that something follows from. A Consul server that has just
// started, or become leader, answers others before it has applied all that it has
// acknowledged: a session would seem not to be there, and be ended as one that has no
// record.
func latest(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
}

// Create implements frontend.Store.
func (s *Store) Create(ctx context.Context, r *frontend.Session) error {
	ops, err := s.writes(r, 0)
	if err != nil {
		return err
	}
	err = s.change(ctx, r, ops, "create")
	if errors.Is(err, frontend.ErrConflict) {
		return fmt.Errorf("create record of %s: %w", r.ID, frontend.ErrExists)
	}
	return err
}

// Update implements frontend.Store.
func (s *Store) Update(ctx context.Context, r *frontend.Session) error {
	ops, err := s.writes(r, r.Version)
	if err != nil {
		return err
	}
	return s.change(ctx, r, ops, "update")
}

// Delete implements frontend.Store. Consul's delete-cas would also be content
// with a key that is gone already.
func (s *Store) Delete(ctx context.Context, r *frontend.Session) error {
	return s.change(ctx, r, api.KVTxnOps{
		{Verb: api.KVCheckIndex, Key: s.record(r.ID), Index: r.Version},
		{Verb: api.KVDelete, Key: s.record(r.ID)},
		{Verb: api.KVDelete, Key: s.entry(r)},
	}, "delete")
}

// writes are the operations that store a record over the one of a version.
func (s *Store) writes(r *frontend.Session, version uint64) (api.KVTxnOps, error) {
	record, err := encode(r)
	if err != nil {
		return nil, fmt.Errorf("encode record of %s: %w", r.ID, err)
	}
	entry, err := encode(r.Entry())
	if err != nil {
		return nil, fmt.Errorf("encode index entry of %s: %w", r.ID, err)
	}
	return api.KVTxnOps{
		{Verb: api.KVCAS, Key: s.record(r.ID), Value: record, Index: version},
		{Verb: api.KVSet, Key: s.entry(r), Value: entry},
	}, nil
}

// change runs a transaction whose first operation compares the version. A
// transaction that is refused is refused for that: nothing else in it can fail.
func (s *Store) change(ctx context.Context, r *frontend.Session, ops api.KVTxnOps, what string) error {
	ok, answer, _, err := s.client.KV().Txn(ops, new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return unavailable(err, "%s record of %s", what, r.ID)
	}
	if !ok {
		return fmt.Errorf("%s record of %s at version %d: %w", what, r.ID, r.Version, frontend.ErrConflict)
	}
	r.Version = answer.Results[0].ModifyIndex
	return nil
}

// Get implements frontend.Store.
func (s *Store) Get(ctx context.Context, id string) (*frontend.Session, error) {
	pair, _, err := s.client.KV().Get(s.record(id), latest(ctx))
	if err != nil {
		return nil, unavailable(err, "read record of %s", id)
	}
	if pair == nil {
		return nil, fmt.Errorf("read record of %s: %w", id, frontend.ErrNotFound)
	}
	return decode(pair)
}

// GetMany implements frontend.Store.
func (s *Store) GetMany(ctx context.Context, ids []string) ([]*frontend.Session, error) {
	out := make([]*frontend.Session, 0, len(ids))
	for some := range slices.Chunk(ids, maxOps) {
		ops := make(api.KVTxnOps, 0, len(some))
		for _, id := range some {
			ops = append(ops, &api.KVTxnOp{Verb: api.KVGetOrEmpty, Key: s.record(id)})
		}
		ok, answer, _, err := s.client.KV().Txn(ops, latest(ctx))
		if err != nil {
			return nil, unavailable(err, "read %d records", len(some))
		}
		if !ok {
			return nil, fmt.Errorf("read %d records: Consul refused: %v", len(some), answer.Errors)
		}
		for _, pair := range answer.Results {
			if len(pair.Value) == 0 {
				continue // there is none
			}
			r, err := decode(pair)
			if err != nil {
				return nil, err
			}
			out = append(out, r)
		}
	}
	return out, nil
}

// All implements frontend.Store.
func (s *Store) All(ctx context.Context, beginning string) ([]*frontend.Session, error) {
	pairs, err := s.list(ctx, s.record(beginning))
	if err != nil {
		return nil, err
	}
	out := make([]*frontend.Session, 0, len(pairs))
	for _, pair := range pairs {
		r, err := decode(pair)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// Account implements frontend.Store.
func (s *Store) Account(ctx context.Context, account string) ([]frontend.Entry, error) {
	folder := s.account(account)
	pairs, err := s.list(ctx, folder)
	if err != nil {
		return nil, err
	}
	out := make([]frontend.Entry, 0, len(pairs))
	for _, pair := range pairs {
		e := frontend.Entry{ID: strings.TrimPrefix(pair.Key, folder), Order: pair.CreateIndex}
		if err := json.Unmarshal(pair.Value, &e); err != nil {
			return nil, fmt.Errorf("decode %s: %w", pair.Key, err)
		}
		out = append(out, e)
	}
	return out, nil
}

func (s *Store) list(ctx context.Context, folder string) (api.KVPairs, error) {
	pairs, _, err := s.client.KV().List(folder, latest(ctx))
	if err != nil {
		return nil, unavailable(err, "list %s", folder)
	}
	return pairs, nil
}

// tryWriteEvery is how often Ready writes: each time is an entry of Consul's log.
const tryWriteEvery = 10 * time.Second

// Ready implements frontend.Store. What it writes is gone in the same transaction.
func (s *Store) Ready(ctx context.Context) error {
	key := s.prefix + "/ready"
	if _, _, err := s.client.KV().Get(key, latest(ctx)); err != nil {
		return unavailable(err, "ask Consul")
	}
	s.tryWrite.Lock()
	defer s.tryWrite.Unlock()
	if !s.wrote.IsZero() && time.Since(s.wrote) < tryWriteEvery {
		return nil
	}
	ok, answer, _, err := s.client.KV().Txn(api.KVTxnOps{
		{Verb: api.KVSet, Key: key}, {Verb: api.KVDelete, Key: key},
	}, new(api.QueryOptions).WithContext(ctx))
	switch {
	case err != nil:
		return unavailable(err, "write to Consul")
	case !ok:
		return fmt.Errorf("write to Consul: %w: %s", frontend.ErrUnavailable, why(answer))
	}
	s.wrote = time.Now()
	return nil
}

// why is what a transaction's answer says of its failure.
func why(answer *api.KVTxnResponse) string {
	var words []string
	for _, e := range answer.Errors {
		words = append(words, e.What)
	}
	return strings.Join(words, "; ")
}

// encode leaves markup in strings as it is, where json.Marshal would not.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

func decode(pair *api.KVPair) (*frontend.Session, error) {
	r := new(frontend.Session)
	if err := json.Unmarshal(pair.Value, r); err != nil {
		return nil, fmt.Errorf("decode %s: %w", pair.Key, err)
	}
	r.Version = pair.ModifyIndex
	return r, nil
}

// unavailable is the error for a call that Consul did not answer as it should.
func unavailable(err error, format string, args ...any) error {
	return fmt.Errorf(format+": %w: %w", append(args, frontend.ErrUnavailable, err)...)
}
