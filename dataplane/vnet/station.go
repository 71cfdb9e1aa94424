package vnet

import (
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// station is the network card of a Host.
type station struct {
	link *Link
	mac  tcpip.LinkAddress

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
}

var _ stack.LinkEndpoint = (*station)(nil)

// receive takes a frame off the link. The driver calls it.
func (s *station) receive(frame []byte) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	defer pkt.DecRef()
	s.mu.RLock()
	d := s.dispatcher
	s.mu.RUnlock()
	if d == nil || !s.ParseHeader(pkt) {
		return
	}
	eth := header.Ethernet(pkt.LinkHeader().Slice())
	pkt.PktType = tcpip.PacketHost
	if header.IsMulticastEthernetAddress(eth.DestinationAddress()) {
		pkt.PktType = tcpip.PacketMulticast
	}
	d.DeliverNetworkPacket(eth.Type(), pkt)
}

// WritePackets queues what the host sends; the driver carries it.
func (s *station) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	s.link.mu.Lock()
	for _, pkt := range pkts.AsSlice() {
		v := pkt.ToView()
		s.link.queue = append(s.link.queue, append([]byte(nil), v.AsSlice()...))
		v.Release()
	}
	s.link.mu.Unlock()
	signalEventFD(s.link.net.wakeFD)
	return pkts.Len(), nil
}

func (s *station) MTU() uint32                      { return uint32(s.link.port.Info().MTU) }
func (s *station) SetMTU(uint32)                    {}
func (s *station) MaxHeaderLength() uint16          { return header.EthernetMinimumSize }
func (s *station) LinkAddress() tcpip.LinkAddress   { return s.mac }
func (s *station) SetLinkAddress(tcpip.LinkAddress) {}
func (s *station) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired
}
func (s *station) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (s *station) Wait()                                   {}
func (s *station) Close()                                  {}
func (s *station) SetOnCloseAction(func())                 {}

func (s *station) Attach(d stack.NetworkDispatcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dispatcher = d
}

func (s *station) IsAttached() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.dispatcher != nil
}

func (s *station) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress, DstAddr: pkt.EgressRoute.RemoteLinkAddress, Type: pkt.NetworkProtocolNumber,
	})
}

func (s *station) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	return ok
}
