package host

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

// Errors of the control path. They are wrapped with the port or address in question.
var (
	ErrClosed   = errors.New("host is closed")
	ErrPort     = errors.New("no such port")
	ErrPortUsed = errors.New("port is known already")
	ErrAddress  = errors.New("not an address of the gateway")
)

// Pump says who moves packets from the rings into netstack.
type Pump uint8

const (
	PumpGoroutine Pump = iota // a goroutine of the host
	PumpManual                // the caller, by Poll: for simulations in steps
)

// Config sizes a Host. The zero value is usable.
type Config struct {
	QueueLen   int         // 2 KB slots of each ring between workers and netstack; default 1024, at least 64
	Neighbours int         // neighbours kept for each port; default 16384
	Pump       Pump        //
	Clock      tcpip.Clock // of every timer; default: the system's
	Log        *slog.Logger
	// Source returns the address that packets to dst should come from, the zero
	// Addr for no preference: the gateway's address on the port by which they leave.
	// Dial asks it. Default: the own address whose prefix contains dst.
	Source func(dst netip.Addr) netip.Addr
}

const (
	localNIC tcpip.NICID = 1
	linkBase tcpip.NICID = 2
)

func linkNIC(id uint16) tcpip.NICID { return linkBase + tcpip.NICID(id) }

// Host is the gateway's own stack. Its methods are safe for concurrent use.
type Host struct {
	cfg   Config
	clock tcpip.Clock
	stack *stack.Stack
	local *local
	port  *hostPort
	stats counters

	links  *ring // kindLink; workers to pump
	asks   *ring // kindResolve; workers to pump
	locals *ring // kindLocal; workers to pump
	wake   chan struct{}
	asleep atomic.Bool // the pump waits on wake
	done   sync.WaitGroup
	closed atomic.Bool

	byID atomic.Pointer[map[uint16]*link] // copied on change

	mu    sync.Mutex                // guards what follows and changes of byID
	onNIC map[netip.Addr]struct{}   // addresses of host0
	owned map[uint16][]netip.Prefix // of each port, without link-local ones
	bare  map[uint16]struct{}       // ports without ARP and ND

	services services
}

// New starts a stack without ports.
func New(cfg Config) (*Host, error) {
	if cfg.QueueLen <= 0 {
		cfg.QueueLen = 1024
	}
	if cfg.Neighbours <= 0 {
		cfg.Neighbours = 16384
	}
	if cfg.Clock == nil {
		cfg.Clock = tcpip.NewStdClock()
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	h := &Host{
		cfg:    cfg,
		clock:  cfg.Clock,
		links:  newRing(min(cfg.QueueLen, 512)),
		asks:   newRing(min(cfg.QueueLen, 256)),
		locals: newRing(cfg.QueueLen),
		wake:   make(chan struct{}, 1),
		onNIC:  make(map[netip.Addr]struct{}),
		owned:  make(map[uint16][]netip.Prefix),
		bare:   make(map[uint16]struct{}),
	}
	h.byID.Store(&map[uint16]*link{})
	h.services.init(h)
	var err error
	if h.port, err = newHostPort(h, cfg.QueueLen); err != nil {
		return nil, err
	}
	if err := h.openStack(); err != nil {
		h.port.closeFD()
		return nil, err
	}
	if cfg.Pump == PumpGoroutine {
		h.done.Add(1)
		go h.run()
	}
	return h, nil
}

func (h *Host) openStack() error {
	h.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocol,
			ipv6.NewProtocolWithOptions(ipv6.Options{NDPConfigs: ipv6.NDPConfigurations{HandleRAs: ipv6.HandlingRAsDisabled}}),
			arp.NewProtocol,
		},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
		Clock: h.clock,
	})
	h.local = newLocal(h)
	if err := h.tune(); err != nil {
		h.stack.Destroy()
		return fmt.Errorf("host: %s", err)
	}
	return nil
}

func (h *Host) tune() tcpip.Error {
	if err := h.stack.CreateNICWithOptions(localNIC, h.local, stack.NICOptions{Name: "host0"}); err != nil {
		return err
	}
	sack := tcpip.TCPSACKEnabled(true)
	recovery := tcpip.TCPRecovery(0) // without RACK, whose probe for a lost tail may be the last there is of it
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 4 << 20}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 4 << 20}
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &moderate, &receive, &send} {
		if err := h.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return err
		}
	}
	h.stack.SetRouteTable(h.routes(nil))
	return h.stack.SetPortRange(dialPortMin, dialPortMax)
}

// routes returns netstack's route table: everything by host0, and after that
// everything by each link NIC, for answers that are bound to one.
func (h *Host) routes(links map[uint16]*link) []tcpip.Route {
	nics := []tcpip.NICID{localNIC}
	for id := range links {
		nics = append(nics, linkNIC(id))
	}
	var t []tcpip.Route
	for _, nic := range nics {
		t = append(t, tcpip.Route{Destination: header.IPv4EmptySubnet, NIC: nic}, tcpip.Route{Destination: header.IPv6EmptySubnet, NIC: nic})
	}
	return t
}

// Close ends the stack, its listeners and connections, and waits for its
// goroutines. Workers must not use the host port any more. Senders of
// ports stay open; they are the caller's.
func (h *Host) Close() error {
	if h.closed.Swap(true) {
		return nil
	}
	h.wakePump()
	h.done.Wait()
	for id := range *h.byID.Load() {
		h.RemovePort(id)
	}
	h.services.close()
	h.stack.Destroy()
	h.port.closeFD()
	return nil
}

// AddPort gives the stack a link: an Ethernet port (or VLAN sub-interface, see Tag) with
// the engine's index id. send belongs to the host until RemovePort. A port that
// carries IP packets without frames has no neighbours: only its addresses count.
//
// onNeighbour is called with news about neighbours, from several goroutines but
// one call at a time for a port. It must not block, nor call AddPort, RemovePort,
// SetAddresses or Close. A port whose MAC has changed must be removed and added again.
func (h *Host) AddPort(id uint16, info port.Info, send port.Sender, onNeighbour func(Neighbour)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed.Load() {
		return ErrClosed
	}
	old := *h.byID.Load()
	if _, bare := h.bare[id]; bare || old[id] != nil {
		return fmt.Errorf("host: port %d (%s): %w", id, info.Name, ErrPortUsed)
	}
	if info.Link == packet.LinkIP {
		h.bare[id] = struct{}{}
		return nil
	}
	l := newLink(h, id, info, send, onNeighbour)
	if err := h.stack.CreateNICWithOptions(l.nic, l, stack.NICOptions{}); err != nil {
		return fmt.Errorf("host: port %d (%s): %s", id, info.Name, err)
	}
	next := make(map[uint16]*link, len(old)+1)
	for i, l := range old {
		next[i] = l
	}
	next[id] = l
	h.publishLinksLocked(next)
	if _, err := l.setAddresses(nil, nil); err != nil {
		h.removeLocked(id)
		return err
	}
	return nil
}

// RemovePort takes a link and its addresses away. When it returns, send is not
// used and onNeighbour not called any more.
func (h *Host) RemovePort(id uint16) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.removeLocked(id)
}

func (h *Host) removeLocked(id uint16) {
	old := *h.byID.Load()
	l := old[id]
	if _, bare := h.bare[id]; bare {
		delete(h.bare, id)
		h.disownLocked(id)
		return
	}
	if l == nil {
		return
	}
	next := make(map[uint16]*link, len(old))
	for i, l := range old {
		if i != id {
			next[i] = l
		}
	}
	h.publishLinksLocked(next)
	l.close()
	h.stack.RemoveNIC(l.nic)
	h.disownLocked(id)
}

// disownLocked takes the addresses of a port from host0.
func (h *Host) disownLocked(id uint16) {
	delete(h.owned, id)
	if err := h.syncLocalLocked(); err != nil {
		h.cfg.Log.Error("addresses of the own stack", "error", err) // removing only, cannot fail
	}
}

// publishLinksLocked makes links the ports, with a route for each, and sets
// host0's MTU to the smallest of them.
func (h *Host) publishLinksLocked(links map[uint16]*link) {
	mtu := defaultMTU
	for _, l := range links {
		mtu = min(mtu, uint32(max(l.info.MTU, header.IPv6MinimumMTU)))
	}
	h.local.SetMTU(mtu)
	h.stack.SetRouteTable(h.routes(links))
	h.byID.Store(&links)
}

// SetAddresses replaces the addresses of port id. local are the gateway's own
// there, each with the prefix of its subnet; proxied are further addresses of the link
// for which the gateway answers ARP and neighbour solicitations. New ones are announced. Without an
// IPv6 link-local address among local, the link has the one that its MAC gives.
func (h *Host) SetAddresses(id uint16, local []netip.Prefix, proxied []netip.Addr) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := (*h.byID.Load())[id]
	var fresh []netip.Addr
	if _, bare := h.bare[id]; !bare {
		if l == nil {
			return fmt.Errorf("host: port %d: %w", id, ErrPort)
		}
		var err error
		if fresh, err = l.setAddresses(local, proxied); err != nil {
			return err
		}
	}
	h.owned[id] = nil
	for _, p := range local {
		if !p.Addr().IsLinkLocalUnicast() || p.Addr().Is4() {
			h.owned[id] = append(h.owned[id], p)
		}
	}
	if err := h.syncLocalLocked(); err != nil {
		return err
	}
	if l != nil {
		l.announce(fresh)
	}
	return nil
}

// addAddress gives a NIC an address without its subnet: for netstack a subnet
// makes the broadcast address an own one, which it would answer ARP for.
func (h *Host) addAddress(nic tcpip.NICID, a netip.Addr, peb stack.PrimaryEndpointBehavior) error {
	pa := tcpip.ProtocolAddress{Protocol: protocolOf(a), AddressWithPrefix: toNetstack(a).WithPrefix()}
	if err := h.stack.AddProtocolAddress(nic, pa, stack.AddressProperties{PEB: peb}); err != nil {
		return fmt.Errorf("host: address %v: %s", a, err)
	}
	return nil
}

// syncLocalLocked gives host0 the addresses of all ports.
func (h *Host) syncLocalLocked() error {
	want := make(map[netip.Addr]struct{})
	for _, prefixes := range h.owned {
		for _, p := range prefixes {
			want[p.Addr()] = struct{}{}
		}
	}
	for a := range h.onNIC {
		if _, keep := want[a]; !keep {
			h.stack.RemoveAddress(localNIC, toNetstack(a))
			delete(h.onNIC, a)
		}
	}
	for a := range want {
		if _, have := h.onNIC[a]; have {
			continue
		}
		if err := h.addAddress(localNIC, a, stack.CanBePrimaryEndpoint); err != nil {
			return err
		}
		h.onNIC[a] = struct{}{}
	}
	return nil
}

// isOwn reports whether a is one of the gateway's own addresses.
func (h *Host) isOwn(a netip.Addr) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.onNIC[a]
	return ok
}

// source returns the address to send to dst from; the zero Addr leaves it to netstack.
func (h *Host) source(dst netip.Addr) netip.Addr {
	if h.cfg.Source != nil {
		if a := h.cfg.Source(dst); a.IsValid() {
			return a
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, prefixes := range h.owned {
		for _, p := range prefixes {
			if p.Contains(dst) {
				return p.Addr()
			}
		}
	}
	return netip.Addr{}
}

// Port returns the host port, of kind LinkIP with one queue: what netstack emits
// comes out of it, what is sent to it is delivered as by DeliverLocal.
func (h *Host) Port() port.Port { return h.port }
