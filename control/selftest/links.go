package selftest

import (
	"net/netip"
	"time"

	"example.com/culvert/dataplane/vnet"
	"example.com/culvert/nat/discover"
	"example.com/culvert/rules/config"
)

// links is the gateway as the discovery sees it.
type links struct {
	net     *vnet.Net
	inside  *vnet.Link
	outside []*vnet.Link              // a packet may leave by any of them; hosts speak first on the first
	answers map[netip.Addr]*vnet.Link // by the source of a packet that left: where answers arrive
}

var _ discover.Network = (*links)(nil)

func newLinks(net *vnet.Net, c *config.Config, in, out *config.Interface) *links {
	l := &links{net: net, answers: make(map[netip.Addr]*vnet.Link)}
	l.inside, _ = net.FindLink(in.Name)
	first, _ := net.FindLink(out.Name)
	l.outside = append(l.outside, first)
	for i := range c.Interfaces {
		if other := &c.Interfaces[i]; sideOf(c, other) == discover.Outside && other.Name != out.Name {
			link, _ := net.FindLink(other.Name)
			l.outside = append(l.outside, link)
		}
	}
	return l
}

// Send implements discover.Network.
func (l *links) Send(from discover.Side, ip []byte) {
	if from == discover.Inside {
		l.inside.Send(ip)
		return
	}
	_, dst := vnet.Addresses(ip)
	if link := l.answers[dst]; link != nil {
		link.Send(ip)
		return
	}
	l.outside[0].Send(ip)
}

// Take implements discover.Network.
func (l *links) Take(at discover.Side) [][]byte {
	if at == discover.Inside {
		return l.inside.Take()
	}
	var all [][]byte
	for _, link := range l.outside {
		for _, ip := range link.Take() {
			src, _ := vnet.Addresses(ip)
			l.answers[src] = link
			all = append(all, ip)
		}
	}
	return all
}

// Wait implements discover.Network.
func (l *links) Wait(d time.Duration) { l.net.Advance(d) }
