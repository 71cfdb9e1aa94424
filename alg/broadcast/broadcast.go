// Package broadcast is the helpers for questions that the gateway's box asks all hosts
// of a link at once: those of SNMP managers that look for agents ("snmp"), and of the
// NetBIOS name service (RFC 1002 section 4.2, "netbios-ns"). Each host answers from its
// own address, so the answers are none of the flow to the broadcast address. The helper
// announces them: flows from the service's port of anybody in the network that was
// asked, to the socket that has asked, for a while.
//
// The network is the prefix of the gateway that has the broadcast address. Questions to
// 255.255.255.255 have none, and the gateway does not forward broadcasts of other hosts
// (RFC 2644), so there is nothing to announce for either.
package broadcast

import (
	"net/netip"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
)

// Helper is one of the helpers for broadcasts.
type Helper struct {
	name string
	port uint16
	wait time.Duration // for answers, as netfilter
	read func(b []byte) reading
}

// reading says what a datagram is.
type reading uint8

const (
	nothing  reading = iota // none of the protocol
	question                // hosts answer it
	other
)

var (
	// SNMP is the helper "snmp".
	SNMP = Helper{"snmp", 161, 30 * time.Second, readSNMP}
	// NetBIOS is the helper "netbios-ns".
	NetBIOS = Helper{"netbios-ns", 137, 3 * time.Second, readName}
)

// Spec implements alg.Helper.
func (h Helper) Spec() alg.Spec {
	return alg.Spec{
		Name: h.name, Protos: []uint8{tuple.UDP}, Port: h.port, Broadcasts: true,
		Classes: []alg.Class{{Name: "answers", Max: 1, Timeout: h.wait}},
	}
}

// New implements alg.Helper.
func (h Helper) New(*alg.Flow) alg.Parser { return parser{h} }

type parser struct{ Helper }

// Inspect implements alg.Parser.
func (p parser) Inspect(c *alg.Context, b []byte) alg.Edit {
	e := alg.Edit{Done: len(b)}
	if c.Dir != tuple.Original {
		return e
	}
	switch p.read(b) {
	case nothing:
		e.Unread = 1
		return e
	case other:
		return e
	}
	if net := c.Subnet(); net.IsValid() {
		_, _ = c.Announce(alg.Expectation{ // the engine counts what it refuses
			Proto: tuple.UDP, To: c.Self(), From: netip.AddrPortFrom(c.Peer().Addr(), p.port), FromBits: net.Bits(), Permanent: true,
		})
		c.Keep(p.wait)
	}
	return e
}

const tagSequence = 0x30 // ITU-T X.690: what every message of SNMP is (RFC 1157 section 4)

// readSNMP takes every message of SNMP for a question.
func readSNMP(b []byte) reading {
	if len(b) > 2 && b[0] == tagSequence {
		return question
	}
	return nothing
}

const (
	nameHeader   = 12   // bytes (RFC 1002 section 4.2.1.1)
	nameResponse = 0x80 // in the third byte
)

// readName tells questions of the name service from answers.
func readName(b []byte) reading {
	switch {
	case len(b) <= nameHeader:
		return nothing
	case b[2]&nameResponse != 0:
		return other
	}
	return question
}
