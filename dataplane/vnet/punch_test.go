package vnet

import (
	"fmt"
	"strings"
	"testing"
)

// nat is how one of two gateways treats its flows.
type natKind struct{ mapping, filtering string }

// natKinds are netfilter's way and the nine of RFC 4787.
func natKinds() []natKind {
	all := []natKind{{"linux", ""}}
	for _, m := range behaviours {
		for _, f := range behaviours {
			all = append(all, natKind{m, f})
		}
	}
	return all
}

var behaviours = []string{"endpoint-independent", "address-dependent", "address-and-port-dependent"}

// fixed reports whether a socket appears from the same port for everybody. With a
// free port netfilter's does.
func (k natKind) fixed() bool { return k.mapping == "linux" || k.mapping == behaviours[0] }

// admits reports whether a packet of the peer to the port that a rendezvous server
// has seen comes in, once the inside host has sent to the peer's port that the
// server has seen.
func (k natKind) admits(peer natKind) bool {
	switch k.filtering {
	case behaviours[0]:
		return true
	case behaviours[1]:
		return k.fixed()
	}
	return k.fixed() && peer.fixed()
}

// peer is a host behind a gateway of its own.
type peer struct {
	net      *Net
	lan, wan *Link
	proto    string
	inside   string // its socket
	address  string // of its gateway
	seen     string // its socket as the rendezvous server has seen it
	heard    bool   // the other one
}

func newPeer(t *testing.T, k natKind, proto string, n int) *peer {
	p := &peer{proto: proto, inside: fmt.Sprintf("10.0.%d.5:4000", n), address: fmt.Sprintf("203.0.113.%d", n)}
	filtering := ""
	if k.filtering != "" {
		filtering = fmt.Sprintf("filtering = %q", k.filtering)
	}
	p.net = New(t, fmt.Sprintf(`
[[interface]]
name = "lan0"
area = "lan"
addresses = ["10.0.%d.1/24"]

[[interface]]
name = "wan0"
area = "wan"
addresses = ["%s/24"]
next_hop = "203.0.113.254"

[[snat]]
out_area = "wan"
action = "masquerade"
mapping = %q
%s`, n, p.address, k.mapping, filtering))
	p.lan, p.wan = p.net.Link("lan0"), p.net.Link("wan0")
	return p
}

// say has the peer's host send a packet.
func (p *peer) say(t *testing.T, to, what string) {
	t.Helper()
	d, _, err := parseDesc(strings.Fields(fmt.Sprintf("%s %s > %s %s", p.proto, p.inside, to, what)))
	if err != nil {
		t.Fatal(err)
	}
	ip, err := d.build()
	if err != nil {
		t.Fatal(err)
	}
	p.lan.Send(ip)
	p.net.Run()
}

const rendezvous = "198.51.100.9:3478"

// carry takes what left a peer's gateway to where it goes, and reports whether
// there was anything.
func (p *peer) carry(t *testing.T, other *peer) (moved bool) {
	for _, ip := range p.wan.Take() {
		d, err := describe(ip)
		if err != nil {
			t.Fatal(err)
		}
		switch d.dst.String() {
		case rendezvous:
			p.seen = d.src.String()
		default:
			if d.dst.Addr().String() == other.address {
				other.wan.Send(ip)
				other.net.Run()
			}
		}
		moved = true
	}
	for _, ip := range p.lan.Take() {
		d, err := describe(ip)
		if err != nil {
			t.Fatal(err)
		}
		moved = true
		if d.inner != nil || d.dst.String() != p.inside || p.heard {
			continue
		}
		p.heard = true
		answer := ""
		if p.proto == "tcp" {
			answer = "SA seq 100 ack 2"
		}
		p.say(t, d.src.String(), answer)
	}
	return moved
}

// TestHolePunching has two hosts behind gateways of each kind learn each other's
// port from a server and send to it at once: simultaneous open for TCP. They find
// each other wherever mapping and filtering allow, and nowhere else.
func TestHolePunching(t *testing.T) {
	for proto, hello := range map[string]string{"udp": "", "tcp": "S seq 1"} {
		for _, ka := range natKinds() {
			for _, kb := range natKinds() {
				a, b := newPeer(t, ka, proto, 1), newPeer(t, kb, proto, 2)
				settle := func() {
					for a.carry(t, b) || b.carry(t, a) {
					}
				}
				a.say(t, rendezvous, hello)
				b.say(t, rendezvous, hello)
				settle()
				if a.seen != "203.0.113.1:4000" || b.seen != "203.0.113.2:4000" {
					t.Fatalf("the server sees %s and %s, want both ports kept", a.seen, b.seen)
				}
				for range 2 { // the first of two may come too early
					a.say(t, b.seen, hello)
					b.say(t, a.seen, hello)
					settle()
				}
				want := ka.admits(kb) || kb.admits(ka)
				if got := a.heard && b.heard; got != want {
					t.Errorf("%s between %v and %v: found each other %v (%v, %v), want %v", proto, ka, kb, got, a.heard, b.heard, want)
				}
			}
		}
	}
}
