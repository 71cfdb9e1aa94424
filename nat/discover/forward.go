package discover

import (
	"fmt"
	"net/netip"
)

// Forward is a range of external ports that lead inside without anybody there
// having asked for it, each to the same distance from To.
type Forward struct {
	First   uint16         `json:"first"`
	Last    uint16         `json:"last"`
	To      netip.AddrPort `json:"to"`      // of First
	Hairpin Hairpinning    `json:"hairpin"` // of First, for other inside hosts
}

// String returns "443 to 10.0.0.6:8443, hairpin external source".
func (f Forward) String() string {
	ports := fmt.Sprint(f.First)
	if f.Last != f.First {
		ports = fmt.Sprintf("%d-%d", f.First, f.Last)
	}
	return fmt.Sprintf("%s to %v, hairpin %s", ports, f.To, f.Hairpin)
}

// forwards knocks at every port of the external address. Nothing else may have a
// mapping there yet, or it would be taken for a forwarded port.
func (p *prober) forwards(proto protocol) []Forward {
	own, ok := p.open(proto, p.inside(0), p.servers()[0], answered)
	if !ok || own.ext == own.in {
		return nil
	}
	var all []Forward
	stranger := p.outside(3, secondPort)
	for port := 1; port <= 65535; port++ {
		ext := netip.AddrPortFrom(own.ext.Addr(), uint16(port))
		if ext == own.ext {
			continue
		}
		got, ok := p.knock(proto, stranger, ext)
		if !ok {
			continue
		}
		if n := len(all); n > 0 && all[n-1].continues(uint16(port), got.dst) {
			all[n-1].Last++
			continue
		}
		all = append(all, Forward{First: uint16(port), Last: uint16(port), To: got.dst})
	}
	p.rest() // what is said to the knocking is said
	for i := range all {
		f := &all[i]
		// To any of them: a set of targets is divided by client.
		from := &flow{p: p, proto: proto, in: p.apart(f.To.Addr())}
		f.Hairpin = p.around(from, &flow{ext: netip.AddrPortFrom(own.ext.Addr(), f.First)})
	}
	p.rest()
	return all
}

// continues reports whether a port goes on with f's range.
func (f *Forward) continues(port uint16, to netip.AddrPort) bool {
	return f.Last+1 == port && to == netip.AddrPortFrom(f.To.Addr(), f.To.Port()+(port-f.First))
}

// apart returns an unused endpoint of an inside host with another address.
func (p *prober) apart(from netip.Addr) netip.AddrPort {
	for n, a := range p.hosts.Inside {
		if a != from {
			return p.inside(n)
		}
	}
	return p.inside(0) // not reached: there are several hosts
}
