package discover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Side is a side of the NAT.
type Side uint8

// The two sides.
const (
	Inside Side = iota
	Outside
	numSides
)

// A Network is a NAT with a link on each side. It is all that a discovery sees.
type Network interface {
	// Send lets a whole IP packet arrive from a link. Everything that follows from it
	// at the present time has happened when Send returns.
	Send(from Side, ip []byte)
	// Take returns the IP packets that have come out to a link since the last call,
	// oldest first.
	Take(at Side) [][]byte
	// Wait lets time pass.
	Wait(d time.Duration)
}

// Hosts are the addresses of the hosts to play, all of one family.
type Hosts struct {
	Inside  []netip.Addr // at least MinInside
	Outside []netip.Addr // at least MinOutside: two that answer, the others pass by
}

// Least numbers of hosts.
const (
	MinInside  = 4
	MinOutside = 4
)

// The ports of the outside hosts: STUN's, and one more.
const (
	firstPort  = 3478
	secondPort = 3479
)

// prober plays the hosts.
type prober struct {
	net   Network
	hosts Hosts
	port  uint16               // the last inside port that a test used
	stamp uint32               // tells packets apart: cookie of data, sequence number, fragment identification
	seen  [numSides][]datagram // what came out and no test has looked at
	parts map[partKey]*parts   // datagrams that came in pieces
	split [numSides]int        // pieces that have come to a side
	fault map[string]struct{}  // what was wrong with packets
}

// inside returns inside host n with a port that no test used, outside an outside host
// with a port.
func (p *prober) inside(n int) netip.AddrPort {
	p.port++
	return netip.AddrPortFrom(p.hosts.Inside[n], p.port)
}

func (p *prober) outside(n int, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(p.hosts.Outside[n], port)
}

// servers returns the four endpoints of RFC 5780: two addresses with two ports each.
func (p *prober) servers() [4]netip.AddrPort {
	return [4]netip.AddrPort{p.outside(0, firstPort), p.outside(0, secondPort), p.outside(1, firstPort), p.outside(1, secondPort)}
}

// mark makes d unlike every packet before it.
func (p *prober) mark(d *datagram) {
	p.stamp += 1 << 8
	if d.proto == tcp {
		if d.flags&synFlag != 0 {
			d.seq = p.stamp << 4
		}
		return
	}
	d.data = binary.BigEndian.AppendUint32(nil, p.stamp)
}

// is reports whether got is what became of d.
func (d *datagram) is(got *datagram) bool {
	if d.proto != got.proto || d.message != got.message {
		return false
	}
	if d.about != nil {
		return d.about.is(got.about)
	}
	if d.proto == tcp {
		return d.seq == got.seq && (got.flags == 0 || d.flags == got.flags) // embedded ones may lack flags
	}
	return len(d.data) >= 4 && len(got.data) >= 4 && string(d.data[:4]) == string(got.data[:4])
}

// send lets d arrive from a side.
func (p *prober) send(from Side, d *datagram) { p.net.Send(from, d.bytes()) }

// pass sends d from one side and returns what came out on the other.
func (p *prober) pass(from, to Side, d *datagram) (*datagram, bool) {
	p.send(from, d)
	return p.find(to, func(got *datagram) bool { return d.is(got) })
}

// find looks through what came out at a side and takes the first packet that fits.
func (p *prober) find(at Side, fits func(*datagram) bool) (*datagram, bool) {
	p.collect(at)
	for i := range p.seen[at] {
		if got := p.seen[at][i]; fits(&got) {
			p.seen[at] = append(p.seen[at][:i:i], p.seen[at][i+1:]...)
			return &got, true
		}
	}
	return nil, false
}

// forget drops what came out and nobody has looked at.
func (p *prober) forget() {
	for s := range numSides {
		p.collect(s)
		p.seen[s] = nil
	}
	clear(p.parts)
	p.split = [numSides]int{}
}

// collect reads what has come out at a side.
func (p *prober) collect(at Side) {
	for _, ip := range p.net.Take(at) {
		d, err := p.read(at, ip)
		switch {
		case errors.Is(err, errForeign), err == nil && d == nil: // not ours, or a piece of what is not complete
		case err != nil:
			p.fault[err.Error()] = struct{}{}
		default:
			p.seen[at] = append(p.seen[at], *d)
		}
	}
}

// partKey is what the pieces of a datagram have in common.
type partKey struct {
	at       Side
	src, dst netip.Addr
	id       uint32
}

// parts is a datagram that has come in part.
type parts struct {
	body []byte
	have int
	all  int // length of the whole body, 0: not known
}

// read returns the datagram that ip is or completes, nil if it is not complete.
func (p *prober) read(at Side, ip []byte) (*datagram, error) {
	d, proto, body, place, err := ipHeader(ip, complete)
	if err != nil {
		return nil, err
	}
	if place.split {
		p.split[at]++
		key := partKey{at, d.src.Addr(), d.dst.Addr(), place.id}
		whole := p.parts[key]
		if whole == nil {
			whole = &parts{}
			p.parts[key] = whole
		}
		end := place.offset + len(body)
		if end > len(whole.body) {
			whole.body = append(whole.body, make([]byte, end-len(whole.body))...)
		}
		copy(whole.body[place.offset:], body)
		whole.have += len(body)
		if !place.more {
			whole.all = end
		}
		if whole.have != whole.all {
			return nil, nil
		}
		delete(p.parts, key)
		body = whole.body
	}
	if err := d.read(proto, body, complete); err != nil {
		return nil, err
	}
	return &d, nil
}

// flow is traffic between an inside and an outside endpoint. For ICMP the port of the
// inside is the identifier of the query, and the outside has none.
type flow struct {
	p            *prober
	proto        protocol
	in, ext, out netip.AddrPort
	next         [numSides]uint32 // sequence numbers of TCP
}

// stage is how far a flow goes.
type stage uint8

const (
	opened   stage = iota // the inside has spoken: a datagram, a SYN, an echo request
	answered              // the outside too: a datagram, a SYN/ACK, an echo reply
	lasting               // long enough for a stream; TCP: established
	closed                // TCP: FIN and ACK of both sides
	reset                 // TCP: established, and reset by the outside
)

// open makes a flow from the inside. It reports false when a packet did not pass.
func (p *prober) open(proto protocol, in, out netip.AddrPort, upTo stage) (*flow, bool) {
	f, ok := p.first(proto, in, out)
	if ok && upTo >= answered {
		ok = f.answer()
	}
	if ok && upTo >= lasting {
		ok = f.settle()
	}
	switch {
	case !ok || upTo <= lasting:
		return f, ok
	case upTo == reset:
		return f, f.down(header.TCPFlagRst)
	}
	const fin = header.TCPFlagFin | ackFlag
	return f, f.up(fin) && f.down(fin) && f.up(ackFlag)
}

// first sends the first packet of a flow from the inside.
func (p *prober) first(proto protocol, in, out netip.AddrPort) (*flow, bool) {
	f := &flow{p: p, proto: proto, in: in, out: out}
	d := &datagram{proto: proto, src: in, dst: out, flags: synFlag}
	if proto == icmp {
		f.out = netip.AddrPortFrom(out.Addr(), 0)
		d.dst, d.message = f.out, echoRequest
	}
	p.mark(d)
	f.next[Inside] = d.seq + 1
	got, ok := p.pass(Inside, Outside, d)
	if !ok {
		return f, false
	}
	f.ext = got.src
	return f, got.dst == f.out
}

// answer lets the outside speak for the first time.
func (f *flow) answer() bool {
	d := &datagram{proto: f.proto, src: f.out, dst: f.ext, flags: synAckFlags, ack: f.next[Inside]}
	if f.proto == icmp {
		d.message = echoReply
	}
	f.p.mark(d)
	f.next[Outside] = d.seq + 1
	return f.arrives(d)
}

// settle makes an answered flow one that lasts.
func (f *flow) settle() bool {
	switch f.proto {
	case tcp:
		return f.up(ackFlag)
	case icmp:
		return true
	}
	for range 2 { // a stream has traffic of both sides for some seconds
		f.p.net.Wait(2 * time.Second)
		if !f.up(0) || !f.down(0) {
			return false
		}
	}
	return true
}

// arrives sends d from the outside and reports whether the inside got it from the outside's address.
func (f *flow) arrives(d *datagram) bool {
	got, ok := f.p.pass(Outside, Inside, d)
	return ok && got.dst == f.in && got.src == f.out
}

// up sends a later packet from the inside, down one from the outside. They report
// whether it arrived and looked as it should.
func (f *flow) up(flags header.TCPFlags) bool {
	d := &datagram{proto: f.proto, src: f.in, dst: f.out, flags: flags}
	if f.proto == icmp {
		d.message = echoRequest
	}
	f.number(d, Inside)
	got, ok := f.p.pass(Inside, Outside, d)
	return ok && got.src == f.ext && got.dst == f.out
}

func (f *flow) down(flags header.TCPFlags) bool {
	d := &datagram{proto: f.proto, src: f.out, dst: f.ext, flags: flags}
	if f.proto == icmp {
		d.message = echoReply
	}
	f.number(d, Outside)
	return f.arrives(d)
}

// number gives d the next place in what a side sends.
func (f *flow) number(d *datagram, from Side) {
	f.p.mark(d)
	if f.proto != tcp {
		return
	}
	d.seq, d.ack = f.next[from], f.next[1-from]
	if d.flags&header.TCPFlagFin != 0 {
		f.next[from]++
	}
}

// alive reports whether a packet from the outside still gets in.
func (f *flow) alive(at stage) bool {
	if f.proto == tcp && at == opened {
		return f.answer()
	}
	return f.down(ackFlag)
}

// knock sends a first packet from the outside to an external endpoint and returns what the inside saw.
func (p *prober) knock(proto protocol, from, ext netip.AddrPort) (*datagram, bool) {
	d := &datagram{proto: proto, src: from, dst: ext, flags: synFlag}
	p.mark(d)
	return p.pass(Outside, Inside, d)
}

func (f *flow) String() string { return fmt.Sprintf("%v %v [%v] > %v", f.proto, f.in, f.ext, f.out) }
