package discover

import (
	"net/netip"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// model is a NAT to be found out: slow, in a few pages, each of its behaviours to be chosen.
type model struct {
	behaviour
	now   time.Duration
	out   [numSides][][]byte
	binds []*binding
	syns  []heldSYN
	in    *prober // reads packets and puts fragments together
}

// behaviour is what can be chosen.
type behaviour struct {
	pool               []netip.Addr
	mapping, filtering Dependence
	hairpin            Hairpinning
	forward            map[uint16]netip.AddrPort // TCP; hairpins when noForwardHairpin does not hold
	noForwardHairpin   bool
	pooling            Pooling
	randomPorts        bool // never keep a port
	class, parity      bool
	life               Lifetimes // of UDP and ICMP; TCP: ten times that
	refresh            Refresh
	holdDown           time.Duration
	loseErrors         bool
	endOnError         bool
	errorsOfOthers     bool // ICMP errors about nothing get in
	onlyFromEnd        bool // ICMP errors from routers are lost
	inOrderOnly        bool
	mtu                int
	syn                SYN
	synWait            time.Duration
	unforgiving        bool // a held SYN is refused although the inside opens the connection
}

// binding is a mapping: the remote counts as far as the mapping depends on it.
type binding struct {
	proto    protocol
	in, ext  netip.AddrPort
	remote   netip.AddrPort // with zeros where it does not count
	sessions map[netip.AddrPort]*session
}

// session is the traffic of a mapping with one remote endpoint.
type session struct {
	deadline  time.Duration
	up, down  int
	fin, rst  bool
	openedOut bool // a pinhole: the inside sent there
}

type heldSYN struct {
	d  *datagram
	at time.Duration
}

func newModel(b behaviour) *model {
	return &model{behaviour: b, in: &prober{parts: make(map[partKey]*parts)}}
}

func (m *model) Take(at Side) [][]byte {
	out := m.out[at]
	m.out[at] = nil
	return out
}

func (m *model) Wait(d time.Duration) {
	m.now += d
	rest := m.syns[:0]
	for _, s := range m.syns {
		if s.at > m.now {
			rest = append(rest, s)
			continue
		}
		m.emit(Outside, unreachable(s.d))
	}
	m.syns = rest
}

func unreachable(d *datagram) *datagram {
	return &datagram{proto: icmp, message: portUnreachable, src: netip.AddrPortFrom(d.dst.Addr(), 0), dst: netip.AddrPortFrom(d.src.Addr(), 0), about: d}
}

func (m *model) emit(to Side, d *datagram) {
	b := d.bytes()
	switch {
	case len(b) <= m.mtu:
		m.out[to] = append(m.out[to], b)
	default:
		m.in.stamp++
		m.out[to] = append(m.out[to], d.fragments(m.in.stamp, (m.mtu-60)&^7)...)
	}
}

func (m *model) Send(from Side, ip []byte) {
	if d, _, _, at, _ := ipHeader(ip, complete); m.inOrderOnly && at.split && at.offset > 0 && m.in.parts[partKey{from, d.src.Addr(), d.dst.Addr(), at.id}] == nil {
		return
	}
	d, err := m.in.read(from, ip)
	if err != nil || d == nil {
		return
	}
	if from == Outside {
		m.fromOutside(d)
		return
	}
	back := unreachable(d)
	back.src = netip.AddrPortFrom(m.pool[0], 0)
	switch {
	case d.ttl == 1:
		back.message = timeExceeded
		m.out[Inside] = append(m.out[Inside], back.bytes())
		return
	case d.dontFrag && len(ip) > m.mtu:
		back.message, back.mtu = tooBig, m.mtu
		m.out[Inside] = append(m.out[Inside], back.bytes())
		return
	}
	m.fromInside(d)
}

// counts returns what of remote a mapping or filter depends on.
func counts(d Dependence, remote netip.AddrPort) netip.AddrPort {
	switch d {
	case AddressAndPort:
		return remote
	case Address:
		return netip.AddrPortFrom(remote.Addr(), 0)
	}
	return netip.AddrPort{}
}

func (m *model) alive(b *binding) bool {
	for _, s := range b.sessions {
		if s.deadline > m.now {
			return true
		}
	}
	return false
}

// bind returns the mapping of an inside endpoint towards a remote one.
func (m *model) bind(proto protocol, in, remote netip.AddrPort) *binding {
	key := counts(m.mapping, remote)
	if m.mapping == Linux {
		key = remote
	}
	for _, b := range m.binds {
		if b.proto == proto && b.in == in && b.remote == key && m.alive(b) {
			return b
		}
	}
	b := &binding{proto: proto, in: in, remote: key, sessions: make(map[netip.AddrPort]*session)}
	addr := m.pool[int(in.Addr().As16()[15])%len(m.pool)]
	if m.pooling == Arbitrary {
		addr = m.pool[int(in.Port())%len(m.pool)]
	}
	b.ext = m.choose(b, addr)
	m.binds = append(m.binds, b)
	return b
}

// choose finds an external endpoint for b at addr.
func (m *model) choose(b *binding, addr netip.Addr) netip.AddrPort {
	port := b.in.Port()
	if m.randomPorts {
		port = port*31 + 1<<14
	}
	for strict := range 3 { // class and parity give way
		for i := range 1 << 16 {
			q := uint16(i*int(1+7*b2i(strict > 0))) + port
			if q == 0 || m.class && strict < 2 && (q < 1024) != (b.in.Port() < 1024) || m.parity && strict < 1 && q%2 != b.in.Port()%2 {
				continue
			}
			if ext := netip.AddrPortFrom(addr, q); m.free(b, ext) {
				return ext
			}
		}
	}
	panic("no port left")
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (m *model) free(b *binding, ext netip.AddrPort) bool {
	for _, o := range m.binds {
		if o.proto != b.proto || o.ext != ext {
			continue
		}
		if m.mapping == Linux && (o.remote != b.remote && o.in != b.in || o.in == b.in) {
			continue
		}
		if m.alive(o) || o.in.Addr() != b.in.Addr() && m.now < m.end(o)+m.holdDown {
			return false
		}
	}
	return true
}

// end returns when the last session of a mapping ended.
func (m *model) end(b *binding) (at time.Duration) {
	for _, s := range b.sessions {
		at = max(at, s.deadline)
	}
	return at
}

// touch notes a packet of a session and prolongs it.
func (m *model) touch(b *binding, remote netip.AddrPort, d *datagram, from Side) {
	s := b.sessions[remote]
	if s == nil || s.deadline <= m.now {
		s = &session{}
		b.sessions[remote] = s
	}
	if from == Inside {
		s.up, s.openedOut = s.up+1, true
	} else {
		s.down++
	}
	s.fin = s.fin || d.flags&header.TCPFlagFin != 0
	s.rst = s.rst || d.flags&header.TCPFlagRst != 0
	life := m.life.Opened
	switch {
	case s.rst:
		life = m.life.Reset
	case s.fin:
		life = m.life.Closed
	case d.proto == tcp && s.up > 1 && s.down > 0, s.up > 1 && s.down > 1:
		life = m.life.Lasting
	case s.down > 0:
		life = m.life.Answered
	}
	if d.proto == tcp {
		life *= 10
	}
	if prolongs := from == Inside && m.refresh.Outbound || from == Outside && m.refresh.Inbound; prolongs || s.up+s.down < 6 {
		s.deadline = m.now + time.Duration(life)
	}
}

func (m *model) fromInside(d *datagram) {
	if d.about != nil {
		if b := m.bind(d.about.proto, d.about.dst, d.about.src); !m.loseErrors {
			d.src, d.about.dst = netip.AddrPortFrom(b.ext.Addr(), 0), b.ext
			m.emit(Outside, d)
		}
		return
	}
	for port, to := range m.forward {
		if to == d.src && d.proto == tcp {
			m.answerForwarded(d, port)
			return
		}
	}
	b := m.bind(d.proto, d.src, d.dst)
	m.touch(b, d.dst, d, Inside)
	if !m.unforgiving {
		m.syns = slices.DeleteFunc(m.syns, func(s heldSYN) bool { return s.d.src == d.dst && s.d.dst == b.ext })
	}
	for _, a := range m.pool {
		if d.dst.Addr() == a {
			m.around(b, d)
			return
		}
	}
	d.src = b.ext
	m.emit(Outside, d)
}

// answerForwarded sends what stands behind a forwarded port sends.
func (m *model) answerForwarded(d *datagram, port uint16) {
	d.src = netip.AddrPortFrom(m.pool[0], port)
	if b := m.owner(d); b != nil {
		d.dst = b.in
		m.emit(Inside, d)
		return
	}
	m.emit(Outside, d)
}

// around handles a packet from the inside to an external address.
func (m *model) around(from *binding, d *datagram) {
	if to, ok := m.forward[d.dst.Port()]; ok && d.proto == tcp {
		if !m.noForwardHairpin {
			d.src, d.dst = from.ext, to
			m.emit(Inside, d)
		}
		return
	}
	to := m.owner(d)
	if to == nil || m.hairpin == NoHairpin || m.hairpin == HairpinOpened && !m.admits(to, from.ext) {
		return
	}
	if m.hairpin != HairpinInternal {
		d.src = from.ext
	}
	d.dst = to.in
	m.emit(Inside, d)
}

// owner returns the mapping that an arriving packet is for.
func (m *model) owner(d *datagram) *binding {
	var fallback *binding
	for _, b := range m.binds {
		if b.proto != d.proto || b.ext != d.dst || !m.alive(b) {
			continue
		}
		if s := b.sessions[d.src]; s != nil && s.deadline > m.now {
			return b
		}
		fallback = b
	}
	return fallback
}

func (m *model) admits(b *binding, from netip.AddrPort) bool {
	for remote, s := range b.sessions {
		if s.openedOut && s.deadline > m.now && counts(m.filtering, remote) == counts(m.filtering, from) {
			return true
		}
	}
	return false
}

func (m *model) fromOutside(d *datagram) {
	if d.about != nil {
		m.errorIn(d)
		return
	}
	if to, ok := m.forward[d.dst.Port()]; ok && d.proto == tcp {
		d.dst = to
		m.emit(Inside, d)
		return
	}
	b := m.owner(d)
	if b == nil || !m.admits(b, d.src) {
		if d.proto == tcp && d.flags == synFlag && m.syn != SYNSilent {
			m.refuseSYN(d)
		}
		return
	}
	m.touch(b, d.src, d, Outside)
	d.dst = b.in
	m.emit(Inside, d)
}

func (m *model) refuseSYN(d *datagram) {
	switch m.syn {
	case SYNReset:
		m.emit(Outside, &datagram{proto: tcp, src: d.dst, dst: d.src, flags: header.TCPFlagRst | ackFlag, ack: d.seq + 1})
	case SYNAtOnce:
		m.emit(Outside, unreachable(d))
	default:
		m.syns = append(m.syns, heldSYN{d, m.now + m.synWait})
	}
}

func (m *model) errorIn(d *datagram) {
	inv := &datagram{proto: d.about.proto, src: d.about.dst, dst: d.about.src}
	b := m.owner(inv)
	if b == nil {
		if m.errorsOfOthers {
			d.dst = netip.MustParseAddrPort("10.0.0.5:0")
			m.emit(Inside, d)
		}
		return
	}
	if m.loseErrors || m.onlyFromEnd && d.src.Addr() != d.about.dst.Addr() {
		return
	}
	if s := b.sessions[d.about.dst]; s != nil && m.refresh.Error {
		s.deadline = m.now + time.Duration(m.life.Lasting)
	}
	if m.endOnError {
		b.sessions = nil
	}
	d.dst, d.about.src = netip.AddrPortFrom(b.in.Addr(), 0), b.in
	m.emit(Inside, d)
}
