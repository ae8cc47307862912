// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package nomad runs one Nomad batch job per awake session.
package nomad

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/driver/credentials"
	"github.com/buntime/buntime/frontend"
)

// Nomad takes 100 connections from one client address by default
// (limits.http_max_conns_per_client).
const connections = 64

// jobPrefix begins the ids of all session jobs.
const jobPrefix = "ses-"

// metaSession and metaEpoch name the meta values of a session's job that have the
// session's id and epoch. A job without them is somebody else's, whatever its name.
const (
	metaSession = "session"
	metaEpoch   = "epoch"
)

// Scheduler implements frontend.Scheduler.
type Scheduler struct {
	client    *api.Client
	transport *http.Transport
	namespace string
	nodeTLS   bool
	hcl       string
	domain    string
	version   string                   // of the jobs
	template  atomic.Pointer[template] // parsed on first use: Nomad may come up later than we
}

var _ frontend.Scheduler = (*Scheduler)(nil)

// Config says where Nomad is.
type Config struct {
	// Address is a URL; empty is Nomad's own default.
	Address string `json:"address"`
	Token   string `json:"token" secret:"true"`
	// Namespace is that of the sessions' jobs; empty is "default".
	Namespace string `json:"namespace"`
	// NodeTLS says that nodes speak TLS.
	NodeTLS bool `json:"-"`
	// TokenFile has the token instead, and CAFile, CertFile and KeyFile are of TLS. They
	// are read anew when they change. ServerName is what Nomad's certificate is for, if
	// not the host of Address.
	TokenFile  string `json:"-"`
	CAFile     string `json:"ca_file"`
	CertFile   string `json:"cert_file"`
	KeyFile    string `json:"key_file"`
	ServerName string `json:"tls_server_name"`
	// Measure, if set, is between us and Nomad, for metrics.
	Measure func(http.RoundTripper) http.RoundTripper `json:"-"`
	// Fail, which may be nil, is told of files that cannot be used any more.
	Fail func(error) `json:"-"`
}

// access is c's, with what it lacks from Nomad's usual environment variables.
func (c Config) access(env *api.TLSConfig) credentials.Access {
	a := credentials.Access{
		TokenFile: c.TokenFile, Files: credentials.Files{CA: c.CAFile, Cert: c.CertFile, Key: c.KeyFile},
		ServerName: cmp.Or(c.ServerName, env.TLSServerName), Fail: c.Fail,
	}
	if a.Files.None() {
		a.Files = credentials.Files{CA: env.CACert, CAPath: env.CAPath, Cert: env.ClientCert, Key: env.ClientKey}
	}
	a.Files.Insecure = env.Insecure
	return a
}

// NewScheduler makes a Scheduler whose jobs are copies of the job in hcl, for
// previews below a domain (without a port). It does not connect yet.
func NewScheduler(c Config, hcl, domain string) (*Scheduler, error) {
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 5 * time.Second,
		MaxConnsPerHost:     connections,
		MaxIdleConnsPerHost: connections,
		IdleConnTimeout:     90 * time.Second,
	}
	conf := api.DefaultConfig()
	if c.Address != "" {
		conf.Address = c.Address
	}
	if c.Token != "" {
		conf.SecretID = c.Token
	}
	conf.Namespace = cmp.Or(c.Namespace, conf.Namespace, api.DefaultNamespace)
	var err error
	if conf.HttpClient, err = c.access(conf.TLSConfig).Client(transport, "X-Nomad-Token"); err != nil {
		return nil, fmt.Errorf("make Nomad client for %s: %w", c.Address, err)
	}
	if c.Measure != nil {
		conf.HttpClient.Transport = c.Measure(conf.HttpClient.Transport)
	}
	client, err := api.NewClient(conf)
	if err != nil {
		return nil, fmt.Errorf("make Nomad client for %s: %w", c.Address, err)
	}
	return &Scheduler{
		client: client, transport: transport, namespace: conf.Namespace, nodeTLS: c.NodeTLS, hcl: hcl, domain: domain, version: jobVersion(hcl, domain, c.NodeTLS),
	}, nil
}

// Close closes idle connections.
func (s *Scheduler) Close() { s.transport.CloseIdleConnections() }

// Start implements frontend.Scheduler.
func (s *Scheduler) Start(ctx context.Context, sess *frontend.Session) error {
	t, err := s.parsed(ctx)
	if err != nil {
		return err
	}
	job, err := t.stamp(sess)
	if err != nil {
		return fmt.Errorf("stamp job of %s: %w", sess.ID, err)
	}
	return s.register(ctx, job)
}

// StartSlot implements frontend.Scheduler.
func (s *Scheduler) StartSlot(ctx context.Context, slot *frontend.Slot) error {
	t, err := s.parsed(ctx)
	if err != nil {
		return err
	}
	job, err := t.stampSlot(slot)
	if err != nil {
		return fmt.Errorf("stamp job of slot %s: %w", slot.ID, err)
	}
	return s.register(ctx, job)
}

// stampVersion is to be raised with every change of what stamp does to the job.
const stampVersion = 1

func jobVersion(hcl, domain string, nodeTLS bool) string {
	h := sha256.New()
	if nodeTLS {
		fmt.Fprintln(h, tagsOfTLS)
	}
	fmt.Fprintf(h, "%d\n%s\n%s", stampVersion, domain, hcl)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// JobVersion implements frontend.Scheduler.
func (s *Scheduler) JobVersion() string { return s.version }

// register registers a job, unless there is one of that name.
func (s *Scheduler) register(ctx context.Context, job *api.Job) error {
	job.Namespace = &s.namespace // Nomad's parser says "default" where the file says nothing
	answer, _, err := s.client.Jobs().EnforceRegister(job, 0, new(api.WriteOptions).WithContext(ctx))
	if err != nil {
		if strings.Contains(err.Error(), api.RegisterEnforceIndexErrPrefix) {
			return fmt.Errorf("register job %s: %w", *job.ID, frontend.ErrExists)
		}
		return unavailable(err, "register job %s", *job.ID)
	}
	// Nomad only warns; the session would have its small reservation as limit.
	if strings.Contains(answer.Warnings, "oversubscription") {
		return fmt.Errorf("register job %s: %w: turn memory oversubscription on (nomad operator scheduler set-config -memory-oversubscription=true); Nomad warns: %s",
			*job.ID, frontend.ErrUnavailable, answer.Warnings)
	}
	return nil
}

// parsed is the job's template. Two that parse at the same time do no harm.
func (s *Scheduler) parsed(ctx context.Context) (*template, error) {
	if t := s.template.Load(); t != nil {
		return t, nil
	}
	job := new(api.Job)
	// What Jobs().ParseHCL does, which takes no context.
	request := &api.JobsParseRequest{JobHCL: s.hcl, Canonicalize: true}
	if _, err := s.client.Raw().Write("/v1/jobs/parse", request, job, new(api.WriteOptions).WithContext(ctx)); err != nil {
		return nil, unavailable(err, "parse session job")
	}
	t, err := newTemplate(job, s.domain, s.nodeTLS)
	if err != nil {
		return nil, fmt.Errorf("read session job: %w", err)
	}
	s.template.Store(t)
	return t, nil
}

// Stop implements frontend.Scheduler.
func (s *Scheduler) Stop(ctx context.Context, id string, epoch uint64) error {
	return s.stop(ctx, frontend.JobID(id, epoch))
}

// StopAll implements frontend.Scheduler.
func (s *Scheduler) StopAll(ctx context.Context, id string) error {
	jobs, err := s.jobs(ctx, frontend.Label(id))
	if err != nil {
		return err
	}
	for _, job := range jobs {
		if job.Session == id {
			err = errors.Join(err, s.Stop(ctx, id, job.Epoch))
		}
	}
	return err
}

func (s *Scheduler) stop(ctx context.Context, job string) error {
	_, _, err := s.client.Jobs().Deregister(job, true, new(api.WriteOptions).WithContext(ctx))
	if err != nil && !isNotFound(err) {
		return unavailable(err, "deregister job %s", job)
	}
	return nil
}

// Jobs implements frontend.Scheduler.
func (s *Scheduler) Jobs(ctx context.Context) ([]frontend.Job, error) {
	return s.jobs(ctx, jobPrefix)
}

// jobs lists the sessions' jobs whose ids begin with a prefix.
func (s *Scheduler) jobs(ctx context.Context, prefix string) ([]frontend.Job, error) {
	var jobs []frontend.Job
	q := (&api.QueryOptions{Prefix: prefix, PerPage: 1000}).WithContext(ctx)
	for {
		stubs, meta, err := s.client.Jobs().ListOptions(&api.JobListOptions{Fields: &api.JobListFields{Meta: true}}, q)
		if err != nil {
			return nil, unavailable(err, "list jobs")
		}
		for _, stub := range stubs {
			if job, ok := sessionJob(stub.ID, stub.Meta); ok {
				job.Dead = stub.Status == dead
				jobs = append(jobs, job)
			}
		}
		if meta.NextToken == "" {
			return jobs, nil
		}
		q.NextToken = meta.NextToken
	}
}

// sessionJob is a job by its id and meta, if it is a session's.
func sessionJob(id string, meta map[string]string) (frontend.Job, bool) {
	session := meta[metaSession]
	epoch, err := strconv.ParseUint(meta[metaEpoch], 10, 64)
	if err != nil || !frontend.ValidID(session) || id != frontend.JobID(session, epoch) {
		return frontend.Job{}, false
	}
	return frontend.Job{Session: session, Epoch: epoch}, true
}

// dead is the status of a job of which Nomad expects nothing more. That may be
// because it was told to stop, although its client is still at it.
const dead = "dead"

// Lost implements frontend.Scheduler by what clients say of the allocations. With a
// job that is purged Nomad forgets those at once, while clients are still stopping
// them.
func (s *Scheduler) Lost(ctx context.Context, id string, epoch uint64) (bool, error) {
	job := frontend.JobID(id, epoch)
	allocs, _, err := s.client.Jobs().Allocations(job, true, new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return false, unavailable(err, "list allocations of job %s", job)
	}
	for _, alloc := range allocs {
		switch alloc.ClientStatus {
		case api.AllocClientStatusPending, api.AllocClientStatusRunning:
			return false, nil
		}
	}
	if len(allocs) > 0 {
		return true, nil
	}
	// Without any, the job is gone, was stopped before it got one, or will get one.
	now, _, err := s.client.Jobs().Info(job, new(api.QueryOptions).WithContext(ctx))
	if isNotFound(err) {
		return false, fmt.Errorf("look at job %s: %w", job, frontend.ErrNotFound)
	}
	if err != nil {
		return false, unavailable(err, "look at job %s", job)
	}
	return now.Status != nil && *now.Status == dead, nil
}

// Full implements frontend.Scheduler.
func (s *Scheduler) Full(ctx context.Context, id string, epoch uint64) (bool, error) {
	evals, _, err := s.client.Jobs().Evaluations(frontend.JobID(id, epoch), new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return false, unavailable(err, "list evaluations of %s", id)
	}
	for _, eval := range evals {
		for _, m := range eval.FailedTGAllocs {
			if m.NodesExhausted > 0 {
				return true, nil
			}
		}
	}
	return false, nil
}

// Explain implements frontend.Scheduler.
func (s *Scheduler) Explain(ctx context.Context, id string, epoch uint64) string {
	job := frontend.JobID(id, epoch)
	q := new(api.QueryOptions).WithContext(ctx)
	allocs, _, err := s.client.Jobs().Allocations(job, true, q)
	if err != nil {
		return err.Error()
	}
	if len(allocs) > 0 {
		return explainAlloc(allocs[0])
	}
	evals, _, err := s.client.Jobs().Evaluations(job, q)
	if err != nil {
		return err.Error()
	}
	for _, eval := range evals {
		for group, m := range eval.FailedTGAllocs {
			return fmt.Sprintf("no placement for group %s: %d nodes evaluated, %d filtered (%v), %d exhausted (%v)",
				group, m.NodesEvaluated, m.NodesFiltered, m.ConstraintFiltered, m.NodesExhausted, m.DimensionExhausted)
		}
	}
	return fmt.Sprintf("no allocation yet, %d evaluations", len(evals))
}

func explainAlloc(alloc *api.AllocationListStub) string {
	why := []string{fmt.Sprintf("allocation %s on %s is %s", alloc.ID, alloc.NodeName, alloc.ClientStatus)}
	for _, task := range alloc.TaskStates {
		for _, event := range task.Events {
			why = append(why, event.Type+": "+event.DisplayMessage)
		}
	}
	return strings.Join(why, "; ")
}

// Ready implements frontend.Scheduler.
func (s *Scheduler) Ready(ctx context.Context) error {
	var leader string
	if _, err := s.client.Raw().Query("/v1/status/leader", &leader, new(api.QueryOptions).WithContext(ctx)); err != nil {
		return unavailable(err, "ask Nomad")
	}
	if leader == "" {
		return fmt.Errorf("ask Nomad: %w: it has no leader", frontend.ErrUnavailable)
	}
	return nil
}

// isNotFound says whether an error is that there is no such job. Of two that
// purge a job at once, the second is told so with status 500.
func isNotFound(err error) bool {
	var e api.UnexpectedResponseError
	return errors.As(err, &e) && (e.StatusCode() == http.StatusNotFound || strings.HasSuffix(strings.TrimSpace(e.Body()), "job not found"))
}

// unavailable is the error for a call that Nomad did not answer as it should.
func unavailable(err error, format string, args ...any) error {
	return fmt.Errorf(format+": %w: %w", append(args, frontend.ErrUnavailable, err)...)
}
