// Package snmp is the helper "snmp_trap" for the traps of SNMPv1 (RFC 1157 section
// 4.1.6). A trap names the address of the agent that sent it, beside the one that it
// has as a packet: the helper writes there what the receiver sees. Later versions
// have no such field and pass as they are, and so does everything that is no trap.
//
// Addresses in the variables of a trap stay: they say how the network looks from
// inside, where the manager cannot reach it anyway.
package snmp

import (
	"net/netip"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
)

// Helper is the helper "snmp_trap".
type Helper struct{}

// Spec implements alg.Helper. Nothing is ever announced.
func (Helper) Spec() alg.Spec {
	return alg.Spec{
		Name: "snmp_trap", Protos: []uint8{tuple.UDP}, Port: 162,
		Classes: []alg.Class{{Name: "none", Max: 1, Timeout: time.Second}},
	}
}

// New implements alg.Helper.
func (Helper) New(*alg.Flow) alg.Parser { return &parser{} }

type parser struct{ text [4]byte }

// Inspect implements alg.Parser.
func (p *parser) Inspect(c *alg.Context, b []byte) alg.Edit {
	e := alg.Edit{Done: len(b)}
	at, is := agentAddr(b)
	if is == nothing {
		e.Unread = 1
	}
	if is != ofAgent || !c.SelfSeen().Addr().Is4() || netip.AddrFrom4([4]byte(b[at:])) != c.Self().Addr() {
		return e
	}
	if p.text = c.SelfSeen().Addr().As4(); p.text != [4]byte(b[at:]) {
		e.Replace = []alg.Replacement{{From: at, To: at + 4, Text: p.text[:]}}
	}
	return e
}

// Tags of ITU-T X.690 that a trap is made of.
const (
	tagInteger     = 0x02
	tagOctetString = 0x04
	tagOID         = 0x06
	tagSequence    = 0x30
	tagIPAddress   = 0x40 // [APPLICATION 0] of RFC 1155
	tagTrap        = 0xa4 // [4]
)

// reading says what a datagram is.
type reading uint8

const (
	nothing reading = iota // no message of SNMP, or a broken one
	ofAgent                // a trap of SNMPv1
	other
)

// agentAddr returns where in message b the four bytes of a trap's agent-addr are.
func agentAddr(b []byte) (at int, is reading) {
	r := reader{b: b, end: len(b), ok: true}
	r.enter(tagSequence)
	if version := r.value(tagInteger); len(version) != 1 {
		return 0, nothing
	} else if version[0] != 0 {
		return 0, other
	}
	r.value(tagOctetString) // community
	if r.ok && r.at < r.end && r.b[r.at] != tagTrap {
		return 0, other
	}
	r.enter(tagTrap)
	r.value(tagOID) // enterprise
	addr := r.value(tagIPAddress)
	if !r.ok || len(addr) != 4 {
		return 0, nothing
	}
	return r.at - len(addr), ofAgent
}

// reader walks over the elements of a message. When something is not as expected it
// is not ok any more and stays where it is.
type reader struct {
	b       []byte
	at, end int // of the innermost element that was entered
	ok      bool
}

// header reads a tag and a length that fits into the element around.
func (r *reader) header(tag byte) (n int) {
	if !r.ok || r.end-r.at < 2 || r.b[r.at] != tag {
		r.ok = false
		return 0
	}
	n = int(r.b[r.at+1])
	r.at += 2
	if n >= 0x80 { // so many bytes of length follow; a datagram's length has two at most
		more := n & 0x7f
		if more == 0 || more > 2 || r.end-r.at < more {
			r.ok = false
			return 0
		}
		n = 0
		for range more {
			n = n<<8 | int(r.b[r.at])
			r.at++
		}
	}
	if r.end-r.at < n {
		r.ok = false
		return 0
	}
	return n
}

// enter goes into an element.
func (r *reader) enter(tag byte) {
	if n := r.header(tag); r.ok {
		r.end = r.at + n
	}
}

// value steps over an element and returns its contents.
func (r *reader) value(tag byte) []byte {
	n := r.header(tag)
	if !r.ok {
		return nil
	}
	r.at += n
	return r.b[r.at-n : r.at]
}
