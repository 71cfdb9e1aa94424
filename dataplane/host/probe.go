package host

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"

	"example.com/culvert/conntrack/tuple"
)

// ErrSilent is what a probe returns whose target said that it is not there.
var ErrSilent = errors.New("no answer")

// Ping sends an echo request to an address from one of the gateway's own, and returns
// nil when the answer has come.
func (h *Host) Ping(ctx context.Context, from, to netip.Addr) error {
	if err := h.ping(ctx, from, to); err != nil {
		return fmt.Errorf("ping %v from %v: %w", to, from, err)
	}
	return nil
}

func (h *Host) ping(ctx context.Context, from, to netip.Addr) error {
	proto, reply, transport := tuple.ICMP, uint8(header.ICMPv4EchoReply), icmp.ProtocolNumber4
	if to.Is6() {
		proto, reply, transport = tuple.ICMPv6, uint8(header.ICMPv6EchoReply), icmp.ProtocolNumber6
	}
	b, err := h.bindTo(transport, endpoint{proto: proto, addr: from, family: protocolOf(from)})
	if err != nil {
		return err
	}
	defer b.ep.Close()
	use := h.services.open([]owner{{addr: tuple.AddrFrom(from), port: b.local.Port, proto: proto}})
	defer use.drop()
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	b.wq.EventRegister(&entry)
	defer b.wq.EventUnregister(&entry)
	seq := uint16(rand.Uint32())
	if terr := send(b.ep, to, echoRequest(proto, seq)); terr != nil {
		return errors.New(terr.String())
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ready:
		}
		for {
			var m message
			if _, terr := b.ep.Read(&m, tcpip.ReadOptions{}); terr != nil {
				if _, wait := terr.(*tcpip.ErrWouldBlock); wait {
					break
				}
				return errors.New(terr.String()) // an ICMP error, for instance
			}
			if m.n >= header.ICMPv4MinimumSize && m.b[0] == reply && binary.BigEndian.Uint16(m.b[6:]) == seq {
				return nil
			}
		}
	}
}

// echoRequest returns an echo request without its identifier and checksum, which
// netstack fills in.
func echoRequest(proto uint8, seq uint16) []byte {
	m := make([]byte, header.ICMPv4MinimumSize)
	m[0] = uint8(header.ICMPv4Echo)
	if proto == tuple.ICMPv6 {
		m[0] = uint8(header.ICMPv6EchoRequest)
	}
	binary.BigEndian.PutUint16(m[6:], seq)
	return m
}

func send(ep tcpip.Endpoint, to netip.Addr, m []byte) tcpip.Error {
	_, err := ep.Write(bytes.NewReader(m), tcpip.WriteOptions{To: &tcpip.FullAddress{NIC: localNIC, Addr: toNetstack(to)}})
	return err
}

// message is the beginning of what is read from an endpoint.
type message struct {
	b [64]byte
	n int
}

func (m *message) Write(b []byte) (int, error) {
	m.n += copy(m.b[m.n:], b)
	return len(b), nil
}

// Knock opens a TCP connection to a port of a host from one of the gateway's own
// addresses, and resets it when it is open.
func (h *Host) Knock(ctx context.Context, from netip.Addr, to netip.AddrPort) error {
	if err := h.knock(ctx, from, to); err != nil {
		return fmt.Errorf("connect to %v from %v: %w", to, from, err)
	}
	return nil
}

func (h *Host) knock(ctx context.Context, from netip.Addr, to netip.AddrPort) error {
	b, err := h.bind(endpoint{proto: tuple.TCP, addr: from, family: protocolOf(from)})
	if err != nil {
		return err
	}
	use := h.services.open([]owner{{port: b.local.Port, proto: tuple.TCP}})
	b.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: true}) // Close is a reset: nothing waits for TIME-WAIT
	err = connect(ctx, b, tcpip.FullAddress{NIC: localNIC, Addr: toNetstack(to.Addr()), Port: to.Port()})
	b.ep.Close()
	h.services.linger(b.ep, use)
	return err
}

// Verify asks a neighbour on port id whether it is there, however lately it has said
// so, and returns nil when it answers. Only three questions without an answer tell
// that it is not; until then only ctx ends the wait.
func (h *Host) Verify(ctx context.Context, id uint16, addr netip.Addr) error {
	l := (*h.byID.Load())[id]
	if l == nil {
		return fmt.Errorf("neighbour %v: %w", addr, ErrPort)
	}
	answer := make(chan State, 1)
	if !l.verify(addr, answer) {
		return fmt.Errorf("neighbour %v: %w", addr, ErrClosed)
	}
	defer l.forgo(addr, answer)
	select {
	case <-ctx.Done():
		return fmt.Errorf("neighbour %v: %w", addr, ctx.Err())
	case s := <-answer:
		if s != Reachable {
			return fmt.Errorf("neighbour %v: %w", addr, ErrSilent)
		}
		return nil
	}
}

// verify opens the question whether addr is there, unless it is open, and has its
// answer told. It reports false when the link is closed.
func (l *link) verify(addr netip.Addr, answer chan State) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.curious[addr] = append(l.curious[addr], answer)
	n := l.neighbours[addr]
	switch {
	case n == nil:
		n = l.newNeighbourLocked(addr)
	case n.phase != known:
		return true
	default:
		n.phase = verifying
	}
	l.askLocked(n)
	return true
}

// forgo takes back the wish for an answer.
func (l *link) forgo(addr netip.Addr, answer chan State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := l.curious[addr][:0]
	for _, c := range l.curious[addr] {
		if c != answer {
			rest = append(rest, c)
		}
	}
	if l.curious[addr] = rest; len(rest) == 0 {
		delete(l.curious, addr)
	}
}

// satisfyLocked tells who waits for news about addr.
func (l *link) satisfyLocked(addr netip.Addr, s State) {
	for _, c := range l.curious[addr] {
		select {
		case c <- s:
		default: // it has been told
		}
	}
}
