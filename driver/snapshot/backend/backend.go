// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package backend opens the object store that a configuration names. The plugin
// and the front-end have to name the same.
package backend

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/buntime/buntime/driver/snapshot/store"
	"github.com/buntime/buntime/driver/snapshot/store/dir"
	"github.com/buntime/buntime/driver/snapshot/store/swift"
)

// Config names one back-end.
type Config struct {
	// Dir is a directory, on one machine or on a file system that all nodes and
	// front-ends share.
	Dir string `json:"dir"`
	// Swift is a container of OpenStack Swift.
	Swift *Swift `json:"swift"`
}

// Swift is where a container is and who one is there; see swift.Config.
type Swift struct {
	AuthURL          string `json:"auth_url"          codec:"auth_url"`
	User             string `json:"user"              codec:"user"`
	Key              string `json:"key"               codec:"key"               secret:"true"`
	Domain           string `json:"domain"            codec:"domain"`
	Tenant           string `json:"tenant"            codec:"tenant"`
	TenantDomain     string `json:"tenant_domain"     codec:"tenant_domain"`
	CredentialID     string `json:"credential_id"     codec:"credential_id"`
	CredentialSecret string `json:"credential_secret" codec:"credential_secret" secret:"true"`
	Region           string `json:"region"            codec:"region"`
	Container        string `json:"container"         codec:"container"`
}

// sweepInterval is how often a directory is rid of what has expired.
const sweepInterval = 30 * time.Second

// Check says what is wrong with a configuration. It may name nothing.
func (c Config) Check() error {
	switch {
	case c.Dir != "" && c.Swift != nil:
		return errors.New("store: name dir or swift, not both")
	case c.Dir != "" && !filepath.IsAbs(c.Dir):
		return fmt.Errorf("store: dir must be an absolute path, got %q", c.Dir)
	case c.Swift != nil && (c.Swift.AuthURL == "" || c.Swift.Container == ""):
		return errors.New("store: swift needs auth_url and container")
	}
	return nil
}

// Named says whether a back-end is named.
func (c Config) Named() bool { return c.Dir != "" || c.Swift != nil }

// Open opens the back-end. close lets go of it.
func Open(c Config) (s store.Store, closer func() error, err error) {
	if err := c.Check(); err != nil {
		return nil, nil, err
	}
	if c.Swift == nil {
		d, err := dir.New(c.Dir, sweepInterval)
		if err != nil {
			return nil, nil, err
		}
		return d, d.Close, nil
	}
	w, err := swift.New(swift.Config{
		AuthURL: c.Swift.AuthURL, User: c.Swift.User, Key: c.Swift.Key, Domain: c.Swift.Domain,
		Tenant: c.Swift.Tenant, TenantDomain: c.Swift.TenantDomain,
		CredentialID: c.Swift.CredentialID, CredentialSecret: c.Swift.CredentialSecret,
		Region: c.Swift.Region, Container: c.Swift.Container,
	})
	if err != nil {
		return nil, nil, err
	}
	return w, w.Close, nil
}
