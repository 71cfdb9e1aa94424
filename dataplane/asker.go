package dataplane

import (
	"hash/maphash"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/route"
)

// sender identifies who sent a packet, for sharing what packets to unknown
// neighbours use up.
type sender struct {
	port uint16
	mac  [6]byte
	addr tuple.Addr
}

// asker returns who sent p. A host on the link is its link-layer address, however
// many source addresses it makes up; behind a router it is an IPv4 address or an
// IPv6 /64. p must be as it was received.
func (w *Worker) asker(p *packet.Packet) route.Asker {
	s := sender{port: p.In}
	if p.Link == packet.LinkEthernet {
		s.mac = [6]byte(p.Mem[p.Off+6 : p.Off+12])
	}
	hop, ok := w.v.routes.Lookup(&p.Tuple.Src)
	if onLink := ok && !hop.Via && hop.Port == p.In && p.Link == packet.LinkEthernet; !onLink {
		s.addr = p.Tuple.Src
		if !s.addr.Is4() {
			clear(s.addr[8:])
		}
	}
	return route.Asker(maphash.Comparable(w.e.seed, s))
}
