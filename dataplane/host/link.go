package host

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

// link is the netstack side of an Ethernet port: its NIC, its addresses, its
// neighbours. It implements stack.LinkEndpoint.
//
// Lock order: mu, netstack's, sendMu. So nothing that netstack calls may take mu.
// on runs with mu held.
type link struct {
	host *Host
	id   uint16
	nic  tcpip.NICID
	info port.Info // as of AddPort
	mtu  atomic.Uint32
	on   func(Neighbour)

	mu         sync.Mutex
	closed     bool
	local      []netip.Prefix          // the gateway's own, link-local included
	owned      map[netip.Addr]struct{} // local and proxied, as netstack has them
	neighbours map[netip.Addr]*neighbour
	open       map[netip.Addr]*neighbour   // those with probes out
	curious    map[netip.Addr][]chan State // who waits for an answer of Verify
	armed      bool
	timer      tcpip.Timer // of sweep, when armed
	again      tcpip.Timer // of the repeated announcement

	sendMu sync.Mutex
	send   port.Sender
	out    packet.Packet // reused for every frame sent
	gone   bool          // send must not be used any more

	dispatchMu sync.RWMutex
	dispatcher stack.NetworkDispatcher
}

var _ stack.LinkEndpoint = (*link)(nil)

func newLink(h *Host, id uint16, info port.Info, send port.Sender, on func(Neighbour)) *link {
	l := &link{
		host: h, id: id, nic: linkNIC(id), on: on, info: info, send: send,
		owned:      make(map[netip.Addr]struct{}),
		neighbours: make(map[netip.Addr]*neighbour),
		open:       make(map[netip.Addr]*neighbour),
		curious:    make(map[netip.Addr][]chan State),
		out:        packet.Packet{Mem: make([]byte, slotSize), Link: packet.LinkEthernet},
	}
	l.mtu.Store(uint32(info.MTU))
	return l
}

// receive takes a frame of ARP or neighbour discovery. Only the pump calls it.
func (l *link) receive(frame []byte) {
	c := parseClaim(frame, l.info.MAC)
	if c.kind != claimNone {
		l.learn(c)
	}
	if !isQuestion(frame) {
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	defer pkt.DecRef()
	if !l.ParseHeader(pkt) {
		return
	}
	eth := header.Ethernet(pkt.LinkHeader().Slice())
	switch dst := eth.DestinationAddress(); {
	case dst == header.EthernetBroadcastAddress:
		pkt.PktType = tcpip.PacketBroadcast
	case header.IsMulticastEthernetAddress(dst):
		pkt.PktType = tcpip.PacketMulticast
	default:
		pkt.PktType = tcpip.PacketHost
	}
	l.dispatchMu.RLock()
	d := l.dispatcher
	l.dispatchMu.RUnlock()
	if d != nil {
		d.DeliverNetworkPacket(eth.Type(), pkt)
	}
}

// transmit sends one complete frame out of the port.
func (l *link) transmit(frame []byte) {
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	if l.gone || packet.Headroom+len(frame) > len(l.out.Mem) {
		return
	}
	l.out.Off = packet.Headroom
	l.out.End = packet.Headroom + copy(l.out.Mem[packet.Headroom:], frame)
	l.out.L3 = l.out.Off + header.EthernetMinimumSize
	l.out.EtherType = uint16(header.Ethernet(frame).Type())
	if l.send.Send(&l.out) != port.Sent {
		l.host.stats.linkRefused.Add(1)
		return
	}
	for _, n := range l.send.Flush() {
		l.host.stats.linkRefused.Add(uint64(n))
	}
	l.host.stats.linkTx.Add(1)
}

// close stops timers, callbacks and sending.
func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	if l.timer != nil {
		l.timer.Stop()
	}
	if l.again != nil {
		l.again.Stop()
	}
	l.mu.Unlock()
	l.sendMu.Lock()
	l.gone = true
	l.sendMu.Unlock()
}

// setAddresses makes local and proxied the addresses that the link answers for
// and returns those that are new on it, local ones first.
func (l *link) setAddresses(local []netip.Prefix, proxied []netip.Addr) (fresh []netip.Addr, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.ContainsFunc(local, func(p netip.Prefix) bool { return p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() }) {
		local = append(slices.Clone(local), netip.PrefixFrom(linkLocal(l.info.MAC), 64))
	}
	want := make(map[netip.Addr]struct{}, len(local)+len(proxied))
	for _, p := range local {
		want[p.Addr()] = struct{}{}
	}
	for _, a := range proxied {
		want[a] = struct{}{}
	}
	for a := range l.owned {
		if _, keep := want[a]; !keep {
			l.host.stack.RemoveAddress(l.nic, toNetstack(a))
			delete(l.owned, a)
		}
	}
	add := func(a netip.Addr, peb stack.PrimaryEndpointBehavior) {
		if _, have := l.owned[a]; have || err != nil {
			return
		}
		if err = l.host.addAddress(l.nic, a, peb); err != nil {
			return
		}
		l.owned[a] = struct{}{}
		l.forgetLocked(a)
		fresh = append(fresh, a)
	}
	for _, p := range local {
		add(p.Addr(), stack.CanBePrimaryEndpoint)
	}
	for _, a := range proxied {
		add(a, stack.NeverPrimaryEndpoint)
	}
	l.local = local
	return fresh, err
}

// forgetLocked drops a neighbour whose address has become ours.
func (l *link) forgetLocked(a netip.Addr) {
	delete(l.neighbours, a)
	delete(l.open, a)
}

// sourceLocked returns the address to ask for target from: one of its subnet, else the
// first of its family, else (IPv4) none, which makes the question a probe.
func (l *link) sourceLocked(target netip.Addr) netip.Addr {
	var first, linkLocal netip.Addr
	for _, p := range l.local {
		a := p.Addr()
		if a.Is4() != target.Is4() {
			continue
		}
		if p.Contains(target) {
			return a
		}
		if a.IsLinkLocalUnicast() {
			linkLocal = a
		} else if !first.IsValid() {
			first = a
		}
	}
	if !first.IsValid() {
		return linkLocal
	}
	return first
}

// onLinkLocked reports whether a lies in one of the link's prefixes.
func (l *link) onLinkLocked(a netip.Addr) bool {
	return slices.ContainsFunc(l.local, func(p netip.Prefix) bool { return p.Contains(a) })
}

// The rest is stack.LinkEndpoint.

// WritePackets sends what netstack answers on the link; anything that does not
// belong to the link alone is refused, for it must pass through the engine.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range pkts.AsSlice() {
		v := pkt.ToView()
		if frame := v.AsSlice(); staysOnLink(frame) {
			markRouter(frame)
			l.transmit(frame)
		} else {
			l.host.stats.linkForeign.Add(1)
		}
		v.Release()
	}
	return pkts.Len(), nil
}

// staysOnLink reports whether a frame of a link NIC may leave: ARP and neighbour
// discovery.
func staysOnLink(frame []byte) bool {
	if len(frame) < header.EthernetMinimumSize {
		return false
	}
	eth := header.Ethernet(frame)
	return eth.Type() == header.ARPProtocolNumber ||
		eth.Type() == header.IPv6ProtocolNumber && ndpMessage(header.IPv6(frame[header.EthernetMinimumSize:])) != nil
}

func (l *link) MTU() uint32                      { return l.mtu.Load() }
func (l *link) SetMTU(mtu uint32)                { l.mtu.Store(mtu) }
func (l *link) MaxHeaderLength() uint16          { return header.EthernetMinimumSize }
func (l *link) LinkAddress() tcpip.LinkAddress   { return tcpip.LinkAddress(l.info.MAC[:]) }
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired
}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (l *link) Wait()                                   {}
func (l *link) Close()                                  {}
func (l *link) SetOnCloseAction(func())                 {}

func (l *link) Attach(d stack.NetworkDispatcher) {
	l.dispatchMu.Lock()
	defer l.dispatchMu.Unlock()
	l.dispatcher = d
}

func (l *link) IsAttached() bool {
	l.dispatchMu.RLock()
	defer l.dispatchMu.RUnlock()
	return l.dispatcher != nil
}

func (l *link) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

func (l *link) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	return ok
}

// Addresses in netstack's form.

func toNetstack(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}
