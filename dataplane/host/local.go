package host

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"example.com/culvert/dataplane/packet"
)

const (
	defaultMTU uint32 = 1500  // of host0 while no port has a smaller one
	gsoMax     int    = 65535 // an IP packet is not longer (RFC 791 section 3.1)
)

// local is host0's link endpoint: IP packets without a link layer, to and from
// the engine. It lets netstack send TCP in GSO packets.
type local struct {
	host *Host
	mtu  atomic.Uint32

	// checked is RX checksum offload for the packet that is being delivered:
	// netstack asks for the capability with every packet, on the pump.
	checked atomic.Bool

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
}

var (
	_ stack.LinkEndpoint = (*local)(nil)
	_ stack.GSOEndpoint  = (*local)(nil)
)

func newLocal(h *Host) *local {
	l := &local{host: h}
	l.mtu.Store(defaultMTU)
	return l
}

// receive gives netstack an IP packet. Only the pump calls it.
func (l *local) receive(ip []byte, off packet.Offload) {
	if off.GSOType&^packet.GSOECN == packet.GSOUDPL4 {
		l.receiveUSO(ip, off)
		return
	}
	// A packet that never left a machine has no checksum yet, and needs none.
	l.inject(ip, off.Flags&(packet.NeedsCsum|packet.DataValid) != 0)
}

func (l *local) inject(ip []byte, checked bool) {
	var proto tcpip.NetworkProtocolNumber
	switch header.IPVersion(ip) {
	case header.IPv4Version:
		proto = header.IPv4ProtocolNumber
	case header.IPv6Version:
		proto = header.IPv6ProtocolNumber
	default:
		l.host.stats.localBad.Add(1)
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(ip)})
	defer pkt.DecRef()
	l.checked.Store(checked)
	l.mu.RLock()
	d := l.dispatcher
	l.mu.RUnlock()
	if d != nil {
		d.DeliverNetworkPacket(proto, pkt)
	}
}

// receiveUSO takes a GSO packet of UDP apart: unlike a TCP segment, a datagram
// must keep its size. The checksums of the parts are left out.
func (l *local) receiveUSO(ip []byte, off packet.Offload) {
	start, size := int(off.CsumStart), int(off.GSOSize)
	data := start + header.UDPMinimumSize
	ok := off.Flags&packet.NeedsCsum != 0 && size > 0 && data <= len(ip)
	switch header.IPVersion(ip) {
	case header.IPv4Version:
		ok = ok && start >= header.IPv4MinimumSize && start == int(header.IPv4(ip).HeaderLength())
	case header.IPv6Version:
		ok = ok && start >= header.IPv6MinimumSize
	}
	if !ok {
		l.host.stats.localBad.Add(1)
		return
	}
	payload := ip[data:]
	part := make([]byte, data, data+size)
	for len(payload) > 0 {
		n := min(size, len(payload))
		part = append(append(part[:0], ip[:data]...), payload[:n]...)
		payload = payload[n:]
		header.UDP(part[start:]).SetLength(uint16(len(part) - start))
		switch header.IPVersion(part) {
		case header.IPv4Version:
			h := header.IPv4(part)
			h.SetTotalLength(uint16(len(part)))
			h.SetChecksum(0)
			h.SetChecksum(^checksum.Checksum(part[:h.HeaderLength()], 0))
		case header.IPv6Version:
			header.IPv6(part).SetPayloadLength(uint16(len(part) - header.IPv6MinimumSize))
		}
		l.inject(part, true)
	}
}

// WritePackets puts what netstack emits into the host port's ring. Several
// goroutines may call it.
func (l *local) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	out := l.host.port.out
	sent := 0
	for _, pkt := range pkts.AsSlice() {
		pos, b, ok := out.claim(pkt.Size(), 0)
		if !ok {
			break
		}
		at := 0
		for _, s := range pkt.AsSlices() {
			at += copy(b[at:], s)
		}
		out.publish(pos, kindLocal, 0, offloadOf(pkt, b))
		sent++
	}
	if sent > 0 {
		l.host.stats.localTx.Add(uint64(sent))
		l.host.port.signal()
	}
	if sent < pkts.Len() {
		return sent, &tcpip.ErrNoBufferSpace{}
	}
	return sent, nil
}

// offloadOf turns netstack's GSO into the virtio form; b is the whole packet. Packets of one
// segment keep only the partial checksum.
func offloadOf(pkt *stack.PacketBuffer, b []byte) packet.Offload {
	g := &pkt.GSOOptions
	if !g.NeedsCsum {
		return packet.Offload{}
	}
	start := len(pkt.NetworkHeader().Slice())
	headers := start + int(header.TCP(b[start:]).DataOffset())
	o := packet.Offload{Flags: packet.NeedsCsum, CsumStart: uint16(start), CsumOffset: g.CsumOffset}
	if len(b)-headers <= int(g.MSS) {
		return o
	}
	o.HdrLen, o.GSOSize = uint16(headers), g.MSS
	switch g.Type {
	case stack.GSOTCPv4:
		o.GSOType = packet.GSOTCPv4
	case stack.GSOTCPv6:
		o.GSOType = packet.GSOTCPv6
	}
	return o
}

// The rest is stack.LinkEndpoint and stack.GSOEndpoint.

func (l *local) SupportedGSO() stack.SupportedGSO        { return stack.HostGSOSupported }
func (l *local) GSOMaxSize() uint32                      { return uint32(gsoMax) }
func (l *local) MTU() uint32                             { return l.mtu.Load() }
func (l *local) SetMTU(mtu uint32)                       { l.mtu.Store(mtu) }
func (l *local) MaxHeaderLength() uint16                 { return 0 }
func (l *local) LinkAddress() tcpip.LinkAddress          { return "" }
func (l *local) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *local) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (l *local) AddHeader(*stack.PacketBuffer)           {}
func (l *local) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (l *local) Wait()                                   {}
func (l *local) Close()                                  {}
func (l *local) SetOnCloseAction(func())                 {}

func (l *local) Capabilities() stack.LinkEndpointCapabilities {
	if l.checked.Load() {
		return stack.CapabilityRXChecksumOffload
	}
	return stack.CapabilityNone
}

func (l *local) Attach(d stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = d
}

func (l *local) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}
