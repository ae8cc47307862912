// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netProbe serves on port 8080 and tells what it sees of the network.
const netProbe = `
import { networkInterfaces } from "node:os";
import { connect } from "node:net";
const addresses = () => Object.values(networkInterfaces()).flat().filter((a) => !a.internal && a.family === "IPv4").map((a) => a.address);
const dial = (host: string, port: number) => new Promise<string>((done) => {
  const socket = connect({ host, port, timeout: 8000 }, () => { done("connected"); socket.destroy(); });
  socket.on("error", (e: any) => done(e.code ?? String(e)));
  socket.on("timeout", () => { done("timeout"); socket.destroy(); });
});
Bun.serve({
  port: 8080,
  async fetch(request) {
    const query = new URL(request.url).searchParams;
    const host = query.get("host");
    const began = performance.now();
    const result = host ? await dial(host, Number(query.get("port"))) : "";
    return Response.json({ addresses: addresses(), result, took: performance.now() - began });
  },
});
`

// netJob is an ordinary Bun job with netProbe.
type netJob struct {
	t     *testing.T
	ctx   context.Context
	name  string
	alloc *nomad.Allocation
}

// runNetJob registers a job whose group has a network in mode, and whose
// task's config has a block more.
func runNetJob(t *testing.T, mode, block string) *netJob {
	t.Helper()
	if system.stack == nil {
		t.Skip("the system is not ours to run other jobs on")
	}
	j := &netJob{t: t, ctx: deadline(t, 3*time.Minute), name: fmt.Sprintf("net-%s-%d", mode, rand.Uint32())}
	text := fmt.Sprintf(`
		job %q {
			type = "service"
			group "net" {
				restart {
					attempts = 0
					mode = "fail"
				}
				reschedule {
					attempts = 0
					unlimited = false
				}
				network {
					mode = %q
					port "http" {
						to = 8080
					}
				}
				task "net" {
					driver = "bun"
					config {
						script = "local/probe.ts"
						%s
					}
					template {
						destination = "local/probe.ts"
						data = %q
					}
					resources {
						cpu = 100
						memory = 128
					}
				}
			}
		}`, j.name, mode, block, netProbe)
	job, err := j.nomad().Jobs().ParseHCL(strings.ReplaceAll(text, "${", "$${"), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, _, err := j.nomad().Jobs().Deregister(j.name, true, nil); err != nil {
			t.Error(err)
		}
	})
	if _, _, err := j.nomad().Jobs().Register(job, nil); err != nil {
		t.Fatal(err)
	}
	return j
}

func (j *netJob) nomad() *nomad.Client { return system.stack.Nomad }

// await waits until the allocation is in a state.
func (j *netJob) await(status string) {
	j.t.Helper()
	eventually(j.t, j.ctx, j.name+" is "+status, 2*time.Minute, func() (bool, string) {
		list, _, err := j.nomad().Jobs().Allocations(j.name, false, nil)
		if err != nil || len(list) != 1 {
			return false, fmt.Sprintf("allocations %+v, error %v", list, err)
		}
		if list[0].ClientStatus != status {
			return false, fmt.Sprintf("%s: %s", list[0].ClientStatus, eventText(list[0].TaskStates))
		}
		j.alloc, _, err = j.nomad().Allocations().Info(list[0].ID, nil)
		// With a network of its own the address comes after the state.
		return err == nil && (status != "running" || len(j.ports()) == 1), fmt.Sprintf("%+v, error %v", j.alloc, err)
	})
}

func (j *netJob) ports() []nomad.PortMapping {
	if j.alloc == nil || j.alloc.AllocatedResources == nil {
		return nil
	}
	return j.alloc.AllocatedResources.Shared.Ports
}

func eventText(states map[string]*nomad.TaskState) string {
	var all []string
	for _, state := range states {
		for _, e := range state.Events {
			all = append(all, e.DisplayMessage)
		}
	}
	return strings.Join(all, "; ")
}

// probe is an answer of netProbe.
type probe struct {
	Addresses []string
	Result    string
	Took      float64 // ms
}

// ask asks the program at an address, to connect to host and port if they are
// given.
func (j *netJob) ask(address, host, port string) (probe, error) {
	var p probe
	ctx, cancel := context.WithTimeout(j.ctx, 30*time.Second)
	defer cancel()
	query := url.Values{}
	if host != "" {
		query = url.Values{"host": {host}, "port": {port}}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/?"+query.Encode(), nil)
	if err != nil {
		return p, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return p, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil {
		err = json.Unmarshal(body, &p)
	}
	return p, err
}

// published is where Nomad says that the job's port is.
func (j *netJob) published() string {
	p := j.ports()[0]
	return net.JoinHostPort(p.HostIP, fmt.Sprint(p.Value))
}

// answers waits for the program's answer.
func (j *netJob) answers(address string) probe {
	j.t.Helper()
	var p probe
	eventually(j.t, j.ctx, j.name+" answers at "+address, time.Minute, func() (bool, string) {
		var err error
		p, err = j.ask(address, "", "")
		return err == nil, fmt.Sprint(err)
	})
	return p
}

// connects has the program connect to host:port and wants a result.
func (j *netJob) connects(hostPort string, want ...string) {
	j.t.Helper()
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		j.t.Fatal(err)
	}
	p, err := j.ask(j.published(), host, port)
	if err != nil {
		j.t.Fatal(err)
	}
	if !slices.Contains(want, p.Result) {
		j.t.Errorf("%s to %s: %s after %.0f ms, want %q", j.name, hostPort, p.Result, p.Took, want)
	}
	j.t.Logf("%s to %s: %s after %.0f ms", j.name, hostPort, p.Result, p.Took)
}

// TestBridgeNetwork: with a network in mode "bridge" a job is where Nomad puts
// it, beside one in mode "host".
func TestBridgeNetwork(t *testing.T) {
	bridged, plain := runNetJob(t, "bridge", ""), runNetJob(t, "host", "")
	bridged.await("running")
	plain.await("running")
	inside := bridged.answers(bridged.published())
	if status := bridged.alloc.NetworkStatus; status == nil || !slices.Equal(inside.Addresses, []string{status.Address}) {
		t.Errorf("the job has %q, Nomad says %+v", inside.Addresses, status)
	} else {
		bridged.answers(net.JoinHostPort(status.Address, "8080"))
	}
	other := plain.answers(plain.published())
	if len(other.Addresses) != 1 || !strings.HasPrefix(other.Addresses[0], "198.1") {
		t.Errorf("the job in mode host has %q, want one of the sandboxes' pool", other.Addresses)
	}
	plain.connects(net.JoinHostPort(inside.Addresses[0], "8080"), "ECONNREFUSED") // a private address

	// Not the agent: Nomad notes an allocation's network once a minute, and an
	// agent that was killed before that ends the allocation.
	t.Run("plugin killed", func(t *testing.T) {
		if err := system.stack.Clients[0].KillPlugin(bridged.ctx, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for _, j := range []*netJob{bridged, plain} {
			before := j.alloc.ID
			if after := j.answers(j.published()); len(after.Addresses) != 1 {
				t.Errorf("%s has %q", j.name, after.Addresses)
			}
			eventually(t, j.ctx, "the next plugin has found "+j.name, time.Minute, func() (bool, string) {
				code, err := j.nomad().Allocations().Exec(j.ctx, j.alloc, "net", false, []string{"true"}, strings.NewReader(""), io.Discard, io.Discard, nil, nil)
				return err == nil && code == 0, fmt.Sprintf("exec: %d, error %v", code, err)
			})
			if j.await("running"); j.alloc.ID != before {
				t.Errorf("%s was placed again", j.name)
			}
		}
	})
}

// TestNetworkPolicyErrors: what cannot be done is said when the task starts.
func TestNetworkPolicyErrors(t *testing.T) {
	for _, test := range []struct{ mode, block, want string }{
		{"bridge", `network { mode = "internet" }`, `leave the block out, or have the group's network in mode "host"`},
		{"host", `network { mode = "open" }`, `mode must be "none", "internet" or "allow", got "open"`},
		{"host", "network {\n mode = \"allow\"\n allow = [\"10.0.0.0/8\"]\n}", `10.0.0.0/8, which this node's configuration closes`},
	} {
		j := runNetJob(t, test.mode, test.block)
		j.await("failed")
		if said := eventText(j.alloc.TaskStates); !strings.Contains(said, test.want) {
			t.Errorf("%s: %q, want %q", test.block, said, test.want)
		}
	}
}

// TestNetworkPolicy: jobs with each mode beside a small internet.
func TestNetworkPolicy(t *testing.T) {
	world := makeInternet(t)
	listed, unlisted := world.serve(t, 0), world.serve(t, 1)
	host, _, _ := net.SplitHostPort(listed)
	allow := runNetJob(t, "host", fmt.Sprintf("network {\n mode = \"allow\"\n allow = [%q, \"registry.npmjs.org\"]\n}", host))
	none := runNetJob(t, "host", `network { mode = "none" }`)
	free := runNetJob(t, "host", "")
	for _, j := range []*netJob{allow, none, free} {
		j.await("running")
		j.answers(j.published())
	}
	eventually(t, free.ctx, "the node forwards to the new network", time.Minute, func() (bool, string) {
		h, p, _ := net.SplitHostPort(listed)
		got, err := free.ask(free.published(), h, p)
		return err == nil && got.Result == "connected", fmt.Sprintf("%+v, error %v", got, err)
	})
	check := func() {
		t.Helper()
		free.connects(unlisted, "connected")
		allow.connects(listed, "connected")
		allow.connects(unlisted, "ECONNREFUSED")
		allow.connects("169.254.169.254:80", "ECONNREFUSED")
		allow.connects("secret.attacker.example:80", "ENOTFOUND")
		none.connects(listed, "ECONNREFUSED", "ENETUNREACH") // as Bun calls it today, and as the kernel does
		none.connects("registry.npmjs.org:443", "EAI_AGAIN")
	}
	check()
	if err := system.stack.Clients[0].KillPlugin(allow.ctx, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, j := range []*netJob{allow, none, free} {
		j.answers(j.published())
	}
	check()
}

// internet is a network namespace beside the host, in a range for examples.
type internet struct {
	ns        *os.File
	addresses []netip.Addr
}

// makeInternet makes one with two addresses.
func makeInternet(t *testing.T) *internet {
	t.Helper()
	w := &internet{}
	base := byte(rand.N(32) * 8)
	gateway := netip.AddrFrom4([4]byte{192, 0, 2, base + 1})
	for i := range byte(2) {
		w.addresses = append(w.addresses, netip.AddrFrom4([4]byte{192, 0, 2, base + 2 + i}))
	}
	onThread(t, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		var err error
		w.ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	t.Cleanup(func() { w.ns.Close() })
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("e2e%08x", rand.Uint32())
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = "eth0", netlink.NsFd(int(w.ns.Fd()))
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(veth); err != nil {
			t.Error(err)
		}
	})
	if err := addressUp(attrs.Name, gateway); err != nil {
		t.Fatal(err)
	}
	w.inside(t, func() error { return addressUp("eth0", w.addresses...) })
	return w
}

func addressUp(name string, addresses ...netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range addresses {
		errs = append(errs, netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(29, 32)}}))
	}
	return errors.Join(append(errs, netlink.LinkSetUp(link))...)
}

// serve accepts connections on one of the addresses.
func (w *internet) serve(t *testing.T, i int) string {
	t.Helper()
	var l net.Listener
	w.inside(t, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(w.addresses[i], 0).String())
		return err
	})
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	return l.Addr().String()
}

func (w *internet) inside(t *testing.T, f func() error) {
	t.Helper()
	onThread(t, func() error {
		if err := unix.Setns(int(w.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// onThread runs f on a thread that nothing else will run on.
func onThread(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
