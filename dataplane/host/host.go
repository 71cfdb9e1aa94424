// Package host is the gateway's own network stack.
package host

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

// Config sizes a Host. The zero value is usable.
type Config struct {
	QueueLen int          // slots of 2 KB in each ring between workers and the stack; 1024 if 0
	Log      *slog.Logger // slog.Default() if nil
}

// Host is the gateway's own stack. Its methods are safe for concurrent use.
type Host struct{}

// State says what is known of a neighbour.
type State uint8

const (
	Reachable State = iota + 1 // verified lately: use MAC
	Stale                      // MAC is usable; call Resolve when a packet uses it
	Failed                     // no answer in 3 s: packets that wait are undeliverable
	Removed                    // forgotten: MAC must not be used any more
)

// Neighbour is what the stack learned about an address on a link.
type Neighbour struct {
	Port  uint16
	Addr  netip.Addr
	MAC   [6]byte // valid when Reachable or Stale
	State State
}

var errSoon = errors.New("host: not available")

// New starts a stack without ports.
func New(c Config) (*Host, error) { return &Host{}, nil }

// Close ends the stack, its listeners and connections, and waits for its goroutines.
func (h *Host) Close() error { return nil }

// AddPort gives the stack a link.
func (h *Host) AddPort(id uint16, info port.Info, send port.Sender, onNeighbour func(Neighbour)) error {
	return nil
}

// RemovePort takes the link away.
func (h *Host) RemovePort(id uint16) {}

// SetAddresses replaces the addresses of a port.
func (h *Host) SetAddresses(id uint16, local []netip.Prefix, proxied []netip.Addr) error { return nil }

// Listen opens an in-process TCP listener; network is tcp, tcp4 or tcp6.
func (h *Host) Listen(network, addr string) (net.Listener, error) { return nil, errSoon }

// ListenPacket opens an in-process UDP socket; network is udp, udp4 or udp6.
func (h *Host) ListenPacket(network, addr string) (net.PacketConn, error) { return nil, errSoon }

// Dial connects out of the gateway.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return nil, errSoon
}

// Owns reports whether an in-process listener or connection uses the local address and port.
func (h *Host) Owns(proto uint8, addr tuple.Addr, port uint16) bool { return false }

// DeliverLink hands an Ethernet frame with ARP or ND, as received on port id, to the stack.
func (h *Host) DeliverLink(id uint16, frame []byte) bool { return false }

// DeliverLocal hands an IP packet for the gateway itself to the stack. off's
// CsumStart counts from the start of ip.
func (h *Host) DeliverLocal(ip []byte, off packet.Offload) bool { return false }

// Resolve asks for the MAC of addr on port id.
func (h *Host) Resolve(id uint16, addr netip.Addr) {}

// Port returns the host port: what the stack sends comes out of its queue 0.
func (h *Host) Port() port.Port { return nil }

// Stats are the counters of a Host since New.
type Stats struct{}

// Stats returns the counters.
func (h *Host) Stats() Stats { return Stats{} }

// IsLinkControl reports whether p, already parsed, belongs to DeliverLink: ARP or neighbour discovery.
func IsLinkControl(p *packet.Packet) bool { return false }
