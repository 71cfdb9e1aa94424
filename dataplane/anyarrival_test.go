package dataplane

import (
	"encoding/binary"
	"slices"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/mem"
)

// fresh has a packet arrive that has nothing to do with any before.
func (l *anyLab) fresh() {
	t := l.t
	name := pick(t, "lan", "wan", "lan", "guest", "host", "lan")
	from, to := anyInside, anyOutside
	switch name {
	case "wan":
		from, to = anyOutside, anyOwn
	case "guest":
		from = anyGuest
	case "host":
		from = anyOwn
	}
	src := pick(t, from...)
	if t.rarely(10) && name != "host" {
		src = pick(t, slices.Concat(anyOdd, anyInside, anyOutside, anyOwn)...)
	}
	if t.rarely(5) {
		to = slices.Concat(anyInside, anyGuest, anyOwn, anyOdd)
	}
	dst := pick(t, to...)
	for i := 0; dst.Is4() != src.Is4() && i < len(to); i++ {
		dst = to[i]
	}
	proto := pick[uint8](t, tuple.UDP, tuple.TCP, tuple.ICMP, tuple.UDP, tuple.TCP, tuple.SCTP, tuple.DCCP, tuple.UDPLite, tuple.GRE, 50, t.byte())
	if proto == tuple.ICMP && !src.Is4() && !t.rarely(20) {
		proto = tuple.ICMPv6
	}
	ack := uint32(0)
	if t.rarely(4) {
		ack = t.word()
	}
	from16, to16 := uint16(40000+t.n(4)), pick(t, anyPorts...)
	if name == "wan" && t.n(2) == 0 {
		to16 = pick[uint16](t, 40000, 1024, 1025, 8443, 443)
	}
	rest := t.transport(proto, from16, to16, t.word(), ack, t.payload())
	l.arrive(name, packetOf(src, dst, proto, pick[uint8](t, 64, 64, 64, 255, 1, 2, t.byte()), uint16(t.n(4)), rest))
}

// lately returns a packet that has left, and how it is to be read.
func (l *anyLab) lately() (d *departed, y layout, ok bool) {
	if l.nleft == 0 {
		return nil, y, false
	}
	d = &l.left[(l.nleft-1-l.t.n(min(l.nleft, len(l.left))))%len(l.left)]
	y, ok = layoutOf(d.ip)
	return d, y, ok && y.end-y.l4 >= 4 && !y.fragment
}

// reply answers a packet that has left, as its receiver would, or nearly so.
func (l *anyLab) reply() {
	d, y, ok := l.lately()
	if !ok {
		l.fresh()
		return
	}
	t, b := l.t, d.ip[y.l4:y.end]
	src, dst := addressOf(y.dst), addressOf(y.src)
	from, to := binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint16(b)
	seq, ack, payload := t.word(), t.word(), t.payload()
	var rest []byte
	switch {
	case y.proto == tuple.TCP && len(b) >= 20:
		their, n := binary.BigEndian.Uint32(b[4:]), uint32(len(b)-int(b[12]>>4)*4)
		if b[13]&3 != 0 {
			n++
		}
		if t.n(8) != 0 {
			seq, ack = binary.BigEndian.Uint32(b[8:]), their+n
		}
		rest = t.transport(y.proto, from, to, seq, ack, payload)
		if b[13]&0x12 == 2 && t.n(4) != 0 { // SYN: accept it
			rest = rest[:20]
			rest[12], rest[13] = 0x50, 0x12
		} else if b[13]&0x12 == 0x12 && t.n(4) != 0 {
			rest[13] = rest[13]&^7 | 0x10
		}
	case y.proto == tuple.ICMP && b[0] == 8, y.proto == tuple.ICMPv6 && b[0] == 128:
		rest = append([]byte(nil), b...)
		rest[0] = map[uint8]uint8{8: 0, 128: 129}[b[0]]
	case y.proto == tuple.SCTP && len(b) >= 12:
		rest = t.transport(y.proto, from, to, seq, ack, nil)
		if t.n(2) == 0 {
			copy(rest[4:8], b[4:8])
		}
	case y.proto == tuple.UDP, y.proto == tuple.UDPLite, y.proto == tuple.DCCP:
		rest = t.transport(y.proto, from, to, seq, ack, payload)
	default:
		rest = append([]byte(nil), b...)
	}
	l.arrive(d.name, packetOf(src, dst, y.proto, 64, uint16(t.n(4)), rest))
}

// complain answers a packet that has left with an ICMP error about it.
func (l *anyLab) complain() {
	d, y, ok := l.lately()
	if !ok {
		l.fresh()
		return
	}
	t := l.t
	quote := d.ip[:min(len(d.ip), pick(t, len(d.ip), y.l4+8, 548, y.l4+8+t.n(64), t.n(80)))]
	if t.rarely(6) && len(quote) > 0 {
		quote = t.damage(quote)
	}
	src := addressOf(y.dst)
	if t.rarely(2) && d.name != "host" { // the own stack lies to nobody
		src = pick(t, anyOutside...)
	}
	dst := addressOf(y.src)
	if t.rarely(8) {
		dst = pick(t, anyOwn...)
	}
	proto, kind := tuple.ICMP, pick[uint8](t, 3, 11, 12, 5, 4, 3, t.byte())
	if y.v6 {
		proto, kind = tuple.ICMPv6, pick[uint8](t, 1, 2, 3, 4, t.byte())
	}
	rest := append([]byte{kind, byte(t.n(16)), 0, 0, 0, 0, byte(t.n(8)), t.byte()}, quote...)
	if t.rarely(8) { // extensions (RFC 4884)
		rest[5] = byte(len(quote) / 4)
	}
	l.arrive(d.name, packetOf(src, dst, proto, 64, 9, rest))
}

func addressOf(b []byte) tuple.Addr {
	if len(b) == 4 {
		return tuple.AddrFrom4([4]byte(b))
	}
	return tuple.Addr(b)
}

// arrive has an IP packet arrive, as it is or as something may have made of it.
func (l *anyLab) arrive(name string, ip []byte) {
	t := l.t
	f := mem.Frame{}
	how := t.n(24)
	if name == "host" && how >= 17 && how != 21 {
		how = 0 // the own stack makes no mistakes
	}
	switch how {
	default:
		f.Data = l.frame(name, ip)
	case 15, 16:
		f.Data = l.frame(name, t.extend(ip))
	case 17, 18:
		f.Data = l.framed(name, t.damage(ip))
	case 19, 20:
		l.arriveInPieces(name, ip)
		return
	case 21:
		f = l.offloaded(name, ip)
	case 22:
		f.Data = l.frame(name, ip)
		if name == "lan" || name == "wan" {
			f.HasVLAN, f.VLAN = true, pick[uint16](t, 7, 7, 7|5<<13, 5<<13, 8)
		}
	case 23:
		f.Data = l.frame(name, ip)
		if l.wild {
			f.Offload = packet.Offload{Flags: t.byte() & 3, GSOType: pick[uint8](t, 0, 1, 3, 4, 5, 0x81, t.byte()), HdrLen: uint16(t.byte()),
				GSOSize: uint16(t.word()), CsumStart: uint16(t.byte()), CsumOffset: uint16(t.n(20))}
		}
	}
	l.come(name, f)
}

// framed is frame for bytes that may be no IP packet.
func (l *anyLab) framed(name string, ip []byte) []byte {
	if l.ports[name].Info().Link == packet.LinkIP {
		return ip
	}
	kind := []byte{8, 0}
	if len(ip) > 0 && ip[0]>>4 == 6 || l.t.rarely(16) {
		kind = []byte{0x86, 0xdd}
	}
	mac := l.ports[name].Info().MAC
	return slices.Concat(mac[:], []byte{2, 0, 10, 0, 0, 5}, kind, ip)
}

// arriveInPieces has a packet arrive in fragments: in order or not, all or not, and now and
// then such as lie about where they belong.
func (l *anyLab) arriveInPieces(name string, ip []byte) {
	t := l.t
	if len(ip) < 60 {
		l.come(name, mem.Frame{Data: l.frame(name, ip)})
		return
	}
	parts := piecesOf(ip, 8*(1+t.n(max(1, min(255, len(ip)/16)))))
	parts = parts[:min(len(parts), 24)]
	switch t.n(5) {
	case 1:
		slices.Reverse(parts)
	case 2:
		parts = parts[t.n(len(parts)):]
	case 3:
		parts = append(parts, parts[t.n(len(parts))])
	case 4:
		p := t.damage(parts[t.n(len(parts))])
		parts = append(parts, p)
	}
	for _, p := range parts {
		l.come(name, mem.Frame{Data: l.framed(name, p)})
	}
}

// offloaded is a TCP or UDP packet with a partial checksum, and perhaps one that stands
// for many.
func (l *anyLab) offloaded(name string, ip []byte) mem.Frame {
	t := l.t
	y, ok := layoutOf(ip)
	if !ok || y.proto != tuple.TCP && y.proto != tuple.UDP || y.l4 != headerLen(ip) || len(ip)-y.l4 < 8 {
		return mem.Frame{Data: l.frame(name, ip)}
	}
	o := packet.Offload{CsumOffset: map[uint8]uint16{tuple.TCP: 16, tuple.UDP: 6}[y.proto]}
	if n := pick(t, 0, 3000, 9000, 20000); n > 0 {
		ip = seal(append(append([]byte(nil), ip...), pattern(n)...))
		o.GSOSize = pick[uint16](t, 1200, 1460, 536, 1000)
		if o.GSOType = packet.GSOUDPL4; y.proto == tuple.TCP {
			if o.GSOType = packet.GSOTCPv4; y.v6 {
				o.GSOType = packet.GSOTCPv6
			}
			o.HdrLen = uint16(y.l4 + int(ip[y.l4+12]>>4)*4)
		} else {
			o.HdrLen = uint16(y.l4 + 8)
		}
	}
	return partial(l.lab, name, ip, o)
}

// come has a frame arrive, and most of the time looks at once at what comes of it.
func (l *anyLab) come(name string, f mem.Frame) {
	n := len(f.Data)
	segments := 1
	if size := int(f.Offload.GSOSize); f.Offload.GSOType != packet.GSONone && size > 0 {
		segments += n / size
	}
	l.budget.frames += segments + n/1216
	l.budget.bytes += n + 120*(segments-1+n/1216)
	if l.helpers {
		l.budget.bytes += 256
	}
	if y, ok := layoutOf(ipIn(f, l.ports[name].Info().Link)); ok && name == "wan" {
		if of := (asked{addressOf(y.src), addressOf(y.dst)}); !l.asked[of] {
			l.asked[of] = false
		}
	}
	l.latest, l.latestAt = f, name
	if st := l.ports[name].InjectFrame(f); st != port.Sent {
		l.Fatalf("%s: inject: %v", name, st)
	}
	if l.unjudged++; l.unjudged > 7 || l.t.n(4) != 3 {
		l.judge()
	}
}

// ipIn is ipOf for frames that may be too short.
func ipIn(f mem.Frame, link packet.Link) []byte {
	if link == packet.LinkEthernet {
		return f.Data[min(14, len(f.Data)):]
	}
	return f.Data
}
