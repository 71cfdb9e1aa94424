//go:build netns

package box

import (
	"context"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"example.com/culvert/control"
	"example.com/culvert/rules/config"
	"example.com/culvert/test/netns"
)

// embedded runs a gateway inside of the test's process, in the namespace of the
// lab's host "gateway".
func embedded(t *testing.T, lab *netns.Lab, text string) *control.Gateway {
	t.Helper()
	cfg, err := config.Parse("embedded.toml", []byte(text))
	must(t, err)
	var g *control.Gateway
	must(t, lab.Host("gateway").Do(func() (err error) {
		g, err = control.New(cfg, control.Options{
			Log:    slog.New(slog.NewTextHandler(t.Output(), nil)),
			Socket: filepath.Join(lab.Dir(), "embedded.sock"),
		})
		return err
	}))
	t.Cleanup(func() {
		if err := g.Close(context.Background()); err != nil {
			t.Errorf("close the gateway: %v", err)
		}
	})
	must(t, g.Start(t.Context()))
	return g
}

// greet says a word to everybody who connects.
func greet(t *testing.T, ln net.Listener, word string) {
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, word)
			_, _ = io.Copy(io.Discard, c) // the client closes first, nothing lingers here
			c.Close()
		}
	}()
}

// greetedBy checks who answers on an address.
func greetedBy(t *testing.T, h *netns.Host, address, want string) {
	t.Helper()
	got, err := greeting(t, h, address, len(want))
	if err != nil || got != want {
		t.Errorf("%s: %s answers %q, %v; want %q", h.Name(), address, got, err, want)
	}
}

// greeting returns what somebody on an address says.
func greeting(t *testing.T, h *netns.Host, address string, length int) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := h.Dial(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	got := make([]byte, length)
	_, err = io.ReadFull(c, got)
	return string(got), err
}

func TestOwnServicesWorkNextToTheBox(t *testing.T) {
	topology := boxTopology("")
	topology.Gateway = nil
	lab := netns.ForTest(t, topology)
	client, box, server := lab.Host("client"), lab.Host("gateway"), lab.Host("server")
	g := embedded(t, lab, boxConfig+withKernel+`
		[[dnat]]
		in_area = "lan"
		proto = "tcp"
		dport = 8081
		action = "redirect"
		ports = 8080
	`)
	kernels, err := box.Listen("tcp", "[::]:8080")
	must(t, err)
	greet(t, kernels, "kernel")
	echo(t, server, "[::]:7")
	all := []string{"10.0.0.1:8080", "[fd00:a::1]:8080", "203.0.113.9:8081", "[2001:db8::9]:8081"}

	for _, at := range all {
		greetedBy(t, client, at, "kernel")
	}
	own, err := g.Listen("tcp", ":8080")
	must(t, err)
	greet(t, own, "own")
	for _, at := range all {
		greetedBy(t, client, at, "own")
	}
	unheard(t, server, "203.0.113.1:8080")

	for _, tt := range []struct{ to, seen string }{
		{"203.0.113.9:7", "203.0.113.1"}, {"[2001:db8::9]:7", "2001:db8::1"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		c, err := g.Dial(ctx, "tcp", tt.to)
		cancel()
		must(t, err)
		alive(t, c)
		alive(t, dial(t, box, "", tt.to))
		alive(t, c)
		c.Close()
	}

	must(t, own.Close())
	for _, at := range all {
		greetedBy(t, client, at, "kernel")
	}
}

// TestConnectionsStayWhereTheyBegan has a service of the program come and go on a
// port of the kernel while connections of both are open.
func TestConnectionsStayWhereTheyBegan(t *testing.T) {
	topology := boxTopology("")
	topology.Gateway = nil
	lab := netns.ForTest(t, topology)
	client, box := lab.Host("client"), lab.Host("gateway")
	g := embedded(t, lab, boxConfig+withKernel)
	const port = "10.0.0.1:8082"
	echo(t, box, "[::]:8082")
	var open []net.Conn
	check := func() {
		t.Helper()
		open = append(open, dial(t, client, "", port))
		for _, c := range open {
			alive(t, c)
		}
	}
	check()
	own, err := g.Listen("tcp", ":8082")
	must(t, err)
	echoOn(t, own)
	check()
	must(t, own.Close())
	check()
}

func TestOwnDatagramServiceWinsOverTheBox(t *testing.T) {
	topology := boxTopology("")
	topology.Gateway = nil
	lab := netns.ForTest(t, topology)
	g := embedded(t, lab, boxConfig+withKernel)
	answer := func(pc net.PacketConn, word string) {
		t.Cleanup(func() { pc.Close() })
		go func() {
			buf := make([]byte, 64)
			for {
				_, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = pc.WriteTo([]byte(word), from)
			}
		}()
	}
	answeredBy := func(to, want string) {
		t.Helper()
		c, err := lab.Host("client").Dial(t.Context(), "udp", to)
		must(t, err)
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(patience)))
		_, err = io.WriteString(c, "who?")
		must(t, err)
		buf := make([]byte, 64)
		n, err := c.Read(buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("%s answers %q, %v; want %q", to, buf[:n], err, want)
		}
	}
	kernels, err := lab.Host("gateway").ListenPacket("udp", "10.0.0.1:5353")
	must(t, err)
	answer(kernels, "kernel")
	answeredBy("10.0.0.1:5353", "kernel")
	own, err := g.ListenPacket("udp", ":5353")
	must(t, err)
	answer(own, "own")
	answeredBy("10.0.0.1:5353", "own")
	must(t, own.Close())
	answeredBy("10.0.0.1:5353", "kernel")
}

// A gateway that is part of a program lives in another namespace than the program.
func TestEmbeddedGatewayFollowsItsNamespace(t *testing.T) {
	topology := boxTopology("")
	topology.Gateway = nil
	lab := netns.ForTest(t, topology)
	client, box, server := lab.Host("client"), lab.Host("gateway"), lab.Host("server")
	g := embedded(t, lab, boxConfig+withKernel)
	echo(t, server, "[::]:7")
	alive(t, dial(t, client, "", "203.0.113.9:7"))
	wan, err := box.Netlink().LinkByName("wan0")
	must(t, err)
	for _, mtu := range []int{1400, 1300, 1480} {
		must(t, box.Netlink().LinkSetMTU(wan, mtu))
		eventually(t, "the MTU is followed", func() bool {
			for _, i := range g.Status().Interfaces {
				if i.Name == "wan0" && i.MTU == mtu {
					return true
				}
			}
			return false
		})
	}
	alive(t, dial(t, client, "", "203.0.113.9:7"))
}
