// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package swift is a store in a container of OpenStack Swift, where objects
// expire by X-Delete-At.
//
// Swift has no compare-and-swap: If-Match is ignored on PUT. Nothing here relies
// on one.
package swift

import (
	"context"
	"crypto/md5" //nolint:gosec // Swift's checksum of what it received; secrets do not depend on it
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/ncw/swift/v2"

	"github.com/buntime/buntime/driver/snapshot/store"
)

// Config says where the objects are. Which of the credentials are needed depends
// on the version of authentication.
type Config struct {
	// AuthURL is that of the authentication, as "https://keystone.example.com/v3"
	// or "http://swift.example.com/auth/v1.0".
	AuthURL string
	// AuthVersion is 1 (user and key), 2 or 3 (Keystone), or 0 to tell it by the
	// URL.
	AuthVersion int
	// User and Key are what one logs in with; in version 3 User is in Domain.
	User, Key, Domain string
	// Tenant is the project of version 2 or 3, in TenantDomain.
	Tenant, TenantDomain string
	// CredentialID and CredentialSecret are an application credential of version
	// 3, instead of User and Key.
	CredentialID, CredentialSecret string
	// Region chooses among those of versions 2 and 3; the first if it is empty.
	Region string
	// Container holds the objects. It is made if there is none.
	Container string
	// Timeout is how long the server may be silent; 15 s if it is 0.
	Timeout time.Duration
	// Tries of each request; 6 if it is 0. Pauses between them double from 100 ms.
	Tries int
}

// Store is a store in Swift.
type Store struct {
	conn      *swift.Connection
	transport *http.Transport
	container string
	tries     int
	page      int // names that are listed with one request
}

var _ store.Store = (*Store)(nil)

// New returns a store. It does not talk to the server yet: a node may start while
// the server is down.
func New(c Config) (*Store, error) {
	if c.AuthURL == "" || c.Container == "" || strings.Contains(c.Container, "/") {
		return nil, fmt.Errorf("configure swift store: authentication URL %q, container %q", c.AuthURL, c.Container)
	}
	if c.Timeout == 0 {
		c.Timeout = 15 * time.Second
	}
	if c.Tries == 0 {
		c.Tries = 6
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 32
	transport.DisableCompression = true // what is stored is compressed
	return &Store{
		transport: transport, container: c.Container, tries: c.Tries, page: 1000,
		conn: &swift.Connection{
			AuthUrl: c.AuthURL, AuthVersion: c.AuthVersion,
			UserName: c.User, ApiKey: c.Key, Domain: c.Domain, Tenant: c.Tenant, TenantDomain: c.TenantDomain,
			ApplicationCredentialId: c.CredentialID, ApplicationCredentialSecret: c.CredentialSecret,
			Region: c.Region, UserAgent: "buntime", ConnectTimeout: c.Timeout, Timeout: c.Timeout,
			Transport: withoutExpect{transport},
		},
	}, nil
}

// Close lets go of idle connections.
func (s *Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// withoutExpect takes "Expect: 100-continue" from requests. It costs a round trip
// for each PUT, and a server that refuses one closes the connection without
// saying so, whereupon the next request on it fails.
type withoutExpect struct{ *http.Transport }

func (t withoutExpect) RoundTrip(r *http.Request) (*http.Response, error) {
	// In place, although a RoundTripper should not: the library cancels a request
	// that takes too long by its pointer, and nobody else has this one.
	r.Header.Del("Expect")
	return t.Transport.RoundTrip(r)
}

// retry does a request until it succeeds, fails in a way that will not change, or
// has been tried often enough.
func (s *Store) retry(ctx context.Context, what, name string, request func() error) error {
	pauses := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMultiplier(2),
		backoff.WithMaxInterval(5*time.Second), backoff.WithMaxElapsedTime(0))
	err := backoff.Retry(func() error {
		err := request()
		if err != nil && (context.Cause(ctx) != nil || final(err)) {
			return backoff.Permanent(err)
		}
		return err
	}, backoff.WithContext(backoff.WithMaxRetries(pauses, uint64(s.tries-1)), ctx))
	if err == nil {
		return nil
	}
	if status(err) == http.StatusNotFound {
		return fmt.Errorf("%s %s: %w", what, name, store.ErrNotExist)
	}
	return fmt.Errorf("%s %s: %w", what, name, err)
}

// status is that of the answer which is an error, or 0 if there was no answer.
func status(err error) int {
	if e := (*swift.Error)(nil); errors.As(err, &e) {
		return e.StatusCode
	}
	return 0
}

// final tells whether the same request would only have the same answer.
func final(err error) bool {
	switch code := status(err); code {
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests, 498: // the last two for too many
		return false
	case http.StatusUnprocessableEntity: // was changed on the way
		return false
	default:
		return code >= 400 && code < 500
	}
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, name string, data []byte, expires time.Time) error {
	if err := store.ValidName(name); err != nil {
		return fmt.Errorf("put object: %w", err)
	}
	sum := md5.Sum(data) //nolint:gosec // as above
	headers := deleteAt(expires)
	headers["Content-Length"] = strconv.Itoa(len(data))
	put := func() error {
		b := &body{rest: data}
		defer b.close()
		_, err := s.conn.ObjectPut(ctx, s.container, name, b, false,
			hex.EncodeToString(sum[:]), "application/octet-stream", headers)
		return err
	}
	return s.retry(ctx, "put object", name, func() error {
		err := put()
		// The library has logged out, and leaves the rest to the caller as it cannot
		// rewind the body.
		for range maxLogins {
			if status(err) == http.StatusUnauthorized {
				err = put()
			}
		}
		if status(err) != http.StatusNotFound {
			return err
		}
		if err := s.conn.ContainerCreate(ctx, s.container, nil); err != nil {
			return fmt.Errorf("create container %s: %w", s.container, err)
		}
		return put()
	})
}

// maxLogins is how often a request is repeated because its token is not valid: as
// often as the library does it for others.
const maxLogins = 3

// body is a request's. A server that answers early leaves the transport reading
// it, perhaps while it is sent again or the caller has the buffer for something
// else: closed, it has nothing to read. It cannot be rewound, which the library
// would do without asking whether it is still being read.
type body struct {
	mu   sync.Mutex
	rest []byte
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *body) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rest = nil
}

func deleteAt(t time.Time) swift.Headers {
	return swift.Headers{"X-Delete-At": strconv.FormatInt(t.Unix(), 10)}
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, name string, offset int64, p []byte) error {
	if err := store.ValidName(name); err != nil {
		return fmt.Errorf("get object: %w", err)
	}
	if len(p) == 0 {
		return nil
	}
	headers := swift.Headers{"Range": fmt.Sprintf("bytes=%d-%d", offset, offset+int64(len(p))-1)}
	return s.retry(ctx, "get object", name, func() error {
		f, _, err := s.conn.ObjectOpen(ctx, s.container, name, false, headers)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := io.ReadFull(f, p); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		return nil
	})
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := store.ValidName(name); err != nil {
		return fmt.Errorf("delete object: %w", err)
	}
	return s.retry(ctx, "delete object", name, func() error {
		err := s.conn.ObjectDelete(ctx, s.container, name)
		if status(err) == http.StatusNotFound {
			return nil
		}
		return err
	})
}

// Expire implements store.Store.
func (s *Store) Expire(ctx context.Context, name string, expires time.Time) error {
	if err := store.ValidName(name); err != nil {
		return fmt.Errorf("set expiry of object: %w", err)
	}
	return s.retry(ctx, "set expiry of object", name, func() error {
		return s.conn.ObjectUpdate(ctx, s.container, name, deleteAt(expires))
	})
}

// List implements store.Store. An object that has expired may still be listed for
// as long as the server's expirer takes.
func (s *Store) List(ctx context.Context, folder string) iter.Seq2[string, error] {
	return s.list(ctx, swift.ObjectsOpts{Prefix: folder + "/"}, func(o swift.Object) string { return o.Name })
}

// Folders implements store.Store.
func (s *Store) Folders(ctx context.Context, beginning string) iter.Seq2[string, error] {
	return s.list(ctx, swift.ObjectsOpts{Prefix: beginning, Delimiter: '/'}, func(o swift.Object) string {
		return strings.TrimSuffix(o.SubDir, "/") // "" for an object in no folder, which is not ours
	})
}

// list yields the names of all pages.
func (s *Store) list(ctx context.Context, opts swift.ObjectsOpts, name func(swift.Object) string) iter.Seq2[string, error] {
	opts.Limit = s.page
	return func(yield func(string, error) bool) {
		for {
			var page []swift.Object
			err := s.retry(ctx, "list objects of", s.container+"/"+opts.Prefix, func() (err error) {
				page, err = s.conn.Objects(ctx, s.container, &opts)
				return err
			})
			if errors.Is(err, store.ErrNotExist) {
				return // no container yet
			}
			if err != nil {
				yield("", err)
				return
			}
			for _, o := range page {
				opts.Marker = o.Name
				if n := name(o); n != "" && !yield(n, nil) {
					return
				}
			}
			if len(page) < opts.Limit {
				return
			}
		}
	}
}
