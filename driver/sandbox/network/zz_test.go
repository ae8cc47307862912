package network

import (
	"testing"
	"time"
	"fmt"
	"context"
	"net"
)

func TestZZ(t *testing.T) {
	m := start(t, Config{})
	server := serveTCP(t, internet, webAddress+":80")
	for _, how := range []string{"udp", "tcp", "forgetfirst", "open", "tcp", "forgetfirst","open"} {
		for i := range 4 {
			n, err := m.Create(context.Background(), i, Policy{Mode: ModeInternet})
			if err != nil { t.Fatal(err) }
			var c net.Conn
			switch how {
			case "udp":
				send(t, n.ns, "", webAddress+":999", "x")
			case "open":
				c, err = n.DialContext(context.Background(), "tcp", server.String())
				if err != nil { t.Fatal(err) }
			default:
				if _, err := dialIn(t, n, server.String()); err != nil { t.Fatal(err) }
			}
			if how == "forgetfirst" {
				forgetConnections(n.address)
			}
			t0 := time.Now()
			if err := n.unplug(); err != nil { t.Fatal(err) }
			t1 := time.Now()
			forgetConnections(n.address)
			fmt.Println(how, "unplug", t1.Sub(t0), "forget", time.Since(t1))
			if c != nil { c.Close() }
			n.Close()
		}
	}
}
