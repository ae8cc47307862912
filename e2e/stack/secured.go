// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/driver/credentials/credentialstest"
)

// Secured is a cluster with ACLs and TLS: what there is before Buntime comes to it, and
// what docs/cluster.md has its operator make.
type Secured struct {
	// Authority signs the certificates of Consul, Nomad, and of the front-ends' listeners.
	Authority *credentialstest.Authority
	// Secrets is the folder with what the commands of docs/cluster.md have made.
	Secrets string

	dir string // of the cluster's own certificates
	// Tokens of management, and those of Nomad's agents at Consul.
	consulToken, nomadToken, agentToken string
}

// Root is the file of the authority.
func (c *Secured) Root() string { return filepath.Join(c.dir, "ca.pem") }

// File is one of the cluster's own certificates: <name>.pem and <name>-key.pem.
func (c *Secured) File(name string) string { return filepath.Join(c.dir, name+".pem") }

// Key is the file of that one's key.
func (c *Secured) Key(name string) string { return filepath.Join(c.dir, name+"-key.pem") }

// AgentToken is the one of Nomad's agents at Consul.
func (c *Secured) AgentToken() string { return c.agentToken }

// ConsulDNS is where Consul answers DNS.
func (s *Stack) ConsulDNS() string { return loopback(s.ports.consulDNS) }

// securedDomain is that of previews. No client believes a wildcard of a single label.
const securedDomain = "preview.localhost"

// secretsDir is the name of Secured.Secrets in the stack's directory.
const secretsDir = "buntime"

func (s *Stack) newSecured() (*Secured, error) {
	authority, err := credentialstest.NewAuthority("the cluster's CA")
	if err != nil {
		return nil, err
	}
	c := &Secured{
		Authority: authority, Secrets: filepath.Join(s.Dir, secretsDir), dir: filepath.Join(s.Dir, "cluster"),
		consulToken: uuid(), nomadToken: uuid(), agentToken: uuid(),
	}
	for _, dir := range []string{c.dir, c.Secrets} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make folder for certificates: %w", err)
		}
	}
	return c, errors.Join(
		credentialstest.Replace(c.Root(), authority.PEM),
		authority.Write(c.dir, "consul", "server.dc1.consul", "localhost", "127.0.0.1"),
		authority.Write(c.dir, "nomad-server", "server.global.nomad", "localhost", "127.0.0.1"),
		authority.Write(c.dir, "nomad-client", "client.global.nomad", "localhost", "127.0.0.1"),
		authority.Write(c.dir, "client", "client.dc1.consul"), // of Consul's clients
		authority.Write(c.dir, "frontend", "localhost", "*."+securedDomain, "127.0.0.1"),
	)
}

// uuid is random, in the form of Consul's and Nomad's tokens.
func uuid() string {
	h := secret(16)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// TLS is for a client that trusts what the stack's front-ends, Nomad and Consul show, and
// has a certificate that Consul takes; nil where the stack has no TLS.
func (s *Stack) TLS() (*tls.Config, error) {
	c := s.Secured
	if c == nil {
		return nil, nil
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.Authority.PEM)
	cert, err := tls.LoadX509KeyPair(c.File("client"), c.Key("client"))
	if err != nil {
		return nil, fmt.Errorf("read certificate of the stack's: %w", err)
	}
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}}, nil
}

// connect makes the clients of the two servers.
func (s *Stack) connect() error {
	consulConfig, nomadConfig := &consul.Config{Address: s.ConsulAddr}, &nomad.Config{Address: s.NomadAddr}
	s.http = http.DefaultClient
	if c := s.Secured; c != nil {
		config, err := s.TLS()
		if err != nil {
			return err
		}
		transport := &http.Transport{TLSClientConfig: config}
		s.http = &http.Client{Transport: transport}
		consulConfig.HttpClient, consulConfig.Token = s.http, c.consulToken
		nomadConfig.HttpClient, nomadConfig.SecretID = s.http, c.nomadToken
	}
	var err error
	if s.Consul, err = consul.NewClient(consulConfig); err != nil {
		return fmt.Errorf("make client of Consul: %w", err)
	}
	if s.Nomad, err = nomad.NewClient(nomadConfig); err != nil {
		return fmt.Errorf("make client of Nomad: %w", err)
	}
	return nil
}

// agentPolicy is what Nomad's agents may do at Consul, as their documentation has it.
const agentPolicy = `
agent_prefix "" { policy = "read" }
node_prefix "" { policy = "read" }
service_prefix "" { policy = "write" }
`

// bootstrap makes what a cluster has before anybody uses it, and then what docs/cluster.md
// says.
func (s *Stack) bootstrap(ctx context.Context) error {
	c := s.Secured
	write := new(consul.WriteOptions).WithContext(ctx)
	if _, _, err := s.Consul.ACL().PolicyCreate(&consul.ACLPolicy{Name: "nomad-agents", Rules: agentPolicy}, write); err != nil {
		return fmt.Errorf("make policy of Nomad's agents: %w", err)
	}
	if _, _, err := s.Consul.ACL().TokenCreate(&consul.ACLToken{SecretID: c.agentToken, Policies: []*consul.ACLLink{{Name: "nomad-agents"}}}, write); err != nil {
		return fmt.Errorf("make token of Nomad's agents: %w", err)
	}
	if _, _, err := s.Nomad.ACLTokens().BootstrapOpts(c.nomadToken, new(nomad.WriteOptions).WithContext(ctx)); err != nil {
		return fmt.Errorf("bootstrap Nomad's ACLs: %w", err)
	}
	return s.RunDocument(ctx, "docs/cluster.md", "Certificates", "Consul", "Nomad")
}

// marked are the blocks of a document that are run.
var marked = regexp.MustCompile("(?s)<!-- run -->\n+```sh\n(.*?)```")

// RunDocument runs the blocks of some sections of a document that are marked so, in the
// work tree, as who may do everything with the servers.
func (s *Stack) RunDocument(ctx context.Context, name string, sections ...string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return err
	}
	var script strings.Builder
	for _, section := range sections {
		_, rest, ok := strings.Cut(string(text), "\n## "+section+"\n")
		if !ok {
			return fmt.Errorf("run %s: it has no section %q", name, section)
		}
		rest, _, _ = strings.Cut(rest, "\n## ")
		blocks := marked.FindAllStringSubmatch(rest, -1)
		if len(blocks) == 0 {
			return fmt.Errorf("run %s: nothing to run in section %q", name, section)
		}
		for _, b := range blocks {
			script.WriteString(b[1])
		}
	}
	bin := filepath.Join(s.Dir, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		return err
	}
	for tool, path := range map[string]string{"consul": s.tools.consul, "nomad": s.tools.nomad, "buntime-frontend": s.tools.frontend} {
		if err := os.Symlink(path, filepath.Join(bin, tool)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script.String())
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), marker+"="+s.Dir)
	cmd.Env = append(cmd.Env, s.environment()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s (%s): %w\n%s", name, strings.Join(sections, ", "), err, out)
	}
	return nil
}

// environment is that of an operator's shell.
func (s *Stack) environment() []string {
	c := s.Secured
	if c == nil {
		return nil
	}
	return []string{
		"secrets=" + c.Secrets, "node_secret=" + s.NodeSecret,
		"CONSUL_HTTP_ADDR=" + s.ConsulAddr, "CONSUL_HTTP_TOKEN=" + c.consulToken, "CONSUL_CACERT=" + c.Root(),
		"CONSUL_CLIENT_CERT=" + c.File("client"), "CONSUL_CLIENT_KEY=" + c.Key("client"),
		"NOMAD_ADDR=" + s.NomadAddr, "NOMAD_TOKEN=" + c.nomadToken, "NOMAD_CACERT=" + c.Root(),
	}
}

// secureConsul is what ACLs and TLS add to Consul's configuration.
func (c *Secured) secureConsul(config map[string]any, https int) {
	ports := config["ports"].(map[string]any)
	ports["http"], ports["https"] = -1, https
	config["tls"] = map[string]any{
		"defaults": map[string]any{
			"ca_file": c.Root(), "cert_file": c.File("consul"), "key_file": c.Key("consul"),
			"verify_incoming": true, "verify_outgoing": true,
		},
		"internal_rpc": map[string]any{"verify_server_hostname": true},
	}
	config["acl"] = map[string]any{
		"enabled": true, "default_policy": "deny",
		"tokens": map[string]any{"initial_management": c.consulToken, "agent": c.consulToken},
	}
}

// secureFrontend is what they add to a front-end's.
func (c *Secured) secureFrontend(config map[string]any) {
	secret := func(name string) string { return filepath.Join(c.Secrets, name) }
	config["nomad"] = map[string]any{
		"address": config["nomad"].(map[string]any)["address"], "namespace": "buntime",
		"token_file": secret("nomad-frontend.token"), "ca_file": c.Root(),
	}
	config["consul"] = map[string]any{
		"address":    config["consul"].(map[string]any)["address"],
		"token_file": secret("consul-frontend.token"), "ca_file": c.Root(),
		"cert_file": c.File("client"), "key_file": c.Key("client"),
	}
	config["node_tls"] = map[string]any{
		"ca_file": secret("ca.pem"), "cert_file": secret("frontend.pem"), "key_file": secret("frontend-key.pem"),
	}
	config["tls"] = map[string]any{"cert_file": c.File("frontend"), "key_file": c.Key("frontend")}
}
