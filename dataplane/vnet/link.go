package vnet

import (
	"net/netip"
	"slices"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/rules/config"
)

// Link is the segment behind an interface of the gateway.
type Link struct {
	net  *Net
	id   uint16
	conf config.Interface
	port *mem.Port

	stations []*station              // of hosts; changes only while nothing runs
	silent   map[netip.Addr]struct{} // guarded by Net.drive
	taken    [][]byte                // IP packets of the gateway, of a link without hosts; guarded by Net.drive

	mu    sync.Mutex
	queue [][]byte // frames that hosts have sent and nobody has carried yet
}

// Port returns the gateway's port, to take it down or change its MTU.
func (l *Link) Port() *mem.Port { return l.port }

// Send lets an IP packet arrive at the gateway, from the link-layer address that stands for
// its source, and moves it as far as it goes.
func (l *Link) Send(ip []byte) {
	src, _ := Addresses(ip)
	l.SendFrame(ethernet(l.port.Info().MAC, macOf(src), ip), packet.Offload{})
}

// SendFrame lets any frame arrive at the gateway and moves it as far as it goes.
func (l *Link) SendFrame(frame []byte, off packet.Offload) {
	l.net.drive.Lock()
	defer l.net.drive.Unlock()
	l.port.Inject(frame, off)
	l.net.runLocked()
}

// Take returns the IP packets that the gateway has sent on a link without hosts
// since the last call, oldest first.
func (l *Link) Take() [][]byte {
	l.net.drive.Lock()
	defer l.net.drive.Unlock()
	t := l.taken
	l.taken = nil
	return t
}

// Silence makes questions for addr on a link without hosts go unanswered.
func (l *Link) Silence(addr netip.Addr) {
	l.net.drive.Lock()
	defer l.net.drive.Unlock()
	l.silent[addr] = struct{}{}
}

// carry brings waiting frames to the other members of the link and reports
// whether there were any.
func (l *Link) carry() bool {
	fromGateway := l.port.Take()
	for _, f := range fromGateway {
		if len(l.stations) == 0 {
			l.keep(f)
			continue
		}
		l.toStations(f, nil)
	}
	l.mu.Lock()
	fromHosts := l.queue
	l.queue = nil
	l.mu.Unlock()
	for i, f := range fromHosts {
		if l.port.Inject(f, packet.Offload{}) == port.Full {
			l.putBack(fromHosts[i:])
			break
		}
		l.toStations(f, f)
	}
	return len(fromGateway)+len(fromHosts) > 0
}

// putBack returns frames that found no room: a link makes its senders wait
// rather than lose.
func (l *Link) putBack(frames [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(frames, l.queue...)
}

// toStations delivers a frame to the hosts it is addressed to, but not back to the one that sent it.
func (l *Link) toStations(frame, own []byte) {
	eth := header.Ethernet(frame)
	for _, h := range l.stations {
		if own != nil && header.Ethernet(own).SourceAddress() == h.mac {
			continue
		}
		if dst := eth.DestinationAddress(); dst == h.mac || header.IsMulticastEthernetAddress(dst) || dst == header.EthernetBroadcastAddress {
			h.receive(frame)
		}
	}
}

// keep takes a frame for the test, or answers it if it asks for a neighbour.
func (l *Link) keep(frame []byte) {
	body := frame[header.EthernetMinimumSize:]
	switch header.Ethernet(frame).Type() {
	case header.ARPProtocolNumber:
		if a := header.ARP(body); a.IsValid() && a.Op() == header.ARPRequest {
			l.answer(netip.AddrFrom4([4]byte(a.ProtocolAddressTarget())), func(mac tcpip.LinkAddress) []byte { return arpReply(a, mac) })
		}
	case header.IPv6ProtocolNumber:
		if ns := solicitation(body); ns != nil {
			l.answer(netip.AddrFrom16(ns.TargetAddress().As16()), func(mac tcpip.LinkAddress) []byte { return advertisement(header.IPv6(body), ns, mac) })
			return
		}
		if isNDP(body) {
			return
		}
		l.taken = append(l.taken, body)
	default:
		l.taken = append(l.taken, body)
	}
}

// answer injects the frame that reply makes for the owner of target.
func (l *Link) answer(target netip.Addr, reply func(tcpip.LinkAddress) []byte) {
	if _, silent := l.silent[target]; silent || slices.ContainsFunc(l.conf.Addresses, func(p netip.Prefix) bool { return p.Addr() == target }) {
		return
	}
	l.port.Inject(reply(macOf(target)), packet.Offload{})
}
