//go:build netns

package e2e

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	netipv4 "golang.org/x/net/ipv4"
	netipv6 "golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// patience bounds whatever has to arrive. Nothing waits that long unless it fails.
const patience = 15 * time.Second

// at joins an address and a port.
func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// inURI writes an address as URIs have it, and whatever puts a port behind it.
func inURI(a netip.Addr) string {
	if a.Is4() {
		return a.String()
	}
	return "[" + a.String() + "]"
}

// allOnes is the mask of a single address.
func allOnes(like netip.Addr) netip.Addr {
	b := like.AsSlice()
	for i := range b {
		b[i] = 0xff
	}
	all, _ := netip.AddrFromSlice(b)
	return all
}

// serveTCP accepts connections inside a host and handles each on a goroutine until the
// test ends.
func serveTCP(t *testing.T, host *netns.Host, on netip.AddrPort, handle func(net.Conn)) {
	t.Helper()
	ln, err := host.Listen("tcp", on.String())
	must(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
}

// listens waits until a program that was started accepts connections.
func listens(t *testing.T, program string, host *netns.Host, on netip.AddrPort) {
	t.Helper()
	until(t, program+" listens", func() bool {
		c, err := host.Dial(t.Context(), "tcp", on.String())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// greet tells a client whom the server sees, then returns whatever it gets.
func greet(c net.Conn) {
	if _, err := fmt.Fprintf(c, "%s\n", c.RemoteAddr()); err == nil {
		_, _ = io.Copy(c, c)
	}
}

// dial connects from an address of a host, port 0 for any.
func dial(t *testing.T, host *netns.Host, from, to netip.AddrPort) net.Conn {
	t.Helper()
	c, err := host.DialFrom(t.Context(), net.TCPAddrFromAddrPort(from), "tcp", to.String())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

// pair connects a client to a socket that the test itself listens on: both ends are
// the test's. on is where the server listens, to what the client calls it.
func pair(t *testing.T, client, server *netns.Host, from, on, to netip.AddrPort) (near, far net.Conn) {
	t.Helper()
	ln, err := server.Listen("tcp", on.String())
	must(t, err)
	defer ln.Close()
	near = dial(t, client, from, to)
	far, err = ln.Accept()
	must(t, err)
	t.Cleanup(func() { far.Close() })
	must(t, far.SetDeadline(time.Now().Add(patience)))
	return near, far
}

// conversation is a connection to a greeting server.
type conversation struct {
	net.Conn
	in   *bufio.Reader
	seen netip.AddrPort // whom the server sees
}

// talk connects to a greeting server and makes it echo once.
func talk(t *testing.T, host *netns.Host, from, to netip.AddrPort) *conversation {
	t.Helper()
	c := &conversation{Conn: dial(t, host, from, to)}
	c.in = bufio.NewReader(c)
	line, err := c.in.ReadString('\n')
	must(t, err)
	c.seen, err = netip.ParseAddrPort(strings.TrimSpace(line))
	must(t, err)
	c.say(t, "hello")
	return c
}

// say sends a line and expects it back.
func (c *conversation) say(t *testing.T, text string) {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	_, err := fmt.Fprintln(c, text)
	must(t, err)
	got, err := c.in.ReadString('\n')
	must(t, err)
	if got != text+"\n" {
		t.Fatalf("the server echoed %q, want %q", got, text)
	}
}

// serveUDP answers every datagram with the sender's address, a newline and the
// datagram, until the test ends.
func serveUDP(t *testing.T, host *netns.Host, on netip.AddrPort) {
	t.Helper()
	pc, err := host.ListenPacket("udp", on.String())
	must(t, err)
	t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil { // an ICMP error about an earlier answer is none of ours
				_, _ = pc.WriteTo(append([]byte(from.String()+"\n"), buf[:n]...), from)
			}
		}
	}()
}

// datagrams is a UDP socket of a host.
type datagrams struct{ *net.UDPConn }

// bindUDP opens a UDP socket, port 0 for any.
func bindUDP(t *testing.T, host *netns.Host, from netip.AddrPort) datagrams {
	t.Helper()
	pc, err := host.ListenPacket("udp", from.String())
	must(t, err)
	t.Cleanup(func() { pc.Close() })
	return datagrams{pc.(*net.UDPConn)}
}

// connectUDP opens a connected UDP socket: the kernel tells it of ICMP errors.
func connectUDP(t *testing.T, host *netns.Host, from, to netip.AddrPort) datagrams {
	t.Helper()
	c, err := host.DialFrom(t.Context(), net.UDPAddrFromAddrPort(from), "udp", to.String())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return datagrams{c.(*net.UDPConn)}
}

// port is the local one.
func (d datagrams) port() uint16 { return d.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

// ask sends a datagram to a server of serveUDP and returns whom it sees.
func (d datagrams) ask(t *testing.T, to netip.AddrPort, payload string) netip.AddrPort {
	t.Helper()
	_, err := d.WriteToUDPAddrPort([]byte(payload), to)
	must(t, err)
	return d.answer(t, to, payload)
}

// answer waits for the answer to payload.
func (d datagrams) answer(t *testing.T, from netip.AddrPort, payload string) netip.AddrPort {
	t.Helper()
	must(t, d.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 1<<16)
	n, sender, err := d.ReadFromUDPAddrPort(buf)
	must(t, err)
	if got := at(sender.Addr().Unmap(), sender.Port()); got != from {
		t.Errorf("the answer comes from %v, want %v", got, from)
	}
	first, rest, _ := strings.Cut(string(buf[:n]), "\n")
	if rest != payload {
		t.Errorf("the server got %d bytes, not the %d that were sent", len(rest), len(payload))
	}
	seen, err := netip.ParseAddrPort(first)
	must(t, err)
	return seen
}

// hearEverything makes errors that may pass by themselves, like an unreachable
// host, errors of the socket too.
func (d datagrams) hearEverything(t *testing.T) {
	t.Helper()
	d.option(t, unix.IP_RECVERR, unix.IPV6_RECVERR, 1)
}

// option sets an option of the level of the socket's family.
func (d datagrams) option(t *testing.T, v4, v6, value int) {
	t.Helper()
	level, name := unix.IPPROTO_IP, v4
	if d.LocalAddr().(*net.UDPAddr).IP.To4() == nil {
		level, name = unix.IPPROTO_IPV6, v6
	}
	raw, err := d.SyscallConn()
	must(t, err)
	var set error
	must(t, raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, name, value) }))
	must(t, set)
}

// ttl sets the hop limit of what is sent.
func (d datagrams) ttl(t *testing.T, hops int) {
	t.Helper()
	d.option(t, unix.IP_TTL, unix.IPV6_UNICAST_HOPS, hops)
}

// readError waits for what an ICMP error makes of a connected socket.
func (d datagrams) readError(t *testing.T) error {
	t.Helper()
	must(t, d.SetReadDeadline(time.Now().Add(patience)))
	_, _, err := d.ReadFromUDPAddrPort(make([]byte, 64))
	if err == nil {
		t.Fatal("a datagram came, want an error")
	}
	return err
}

// pinger is a raw ICMP socket of a host.
type pinger struct {
	net.PacketConn
	f *family
}

func openPing(t *testing.T, host *netns.Host, f *family, from netip.Addr) pinger {
	t.Helper()
	network := "ip4:icmp"
	if !f.is4() {
		network = "ip6:ipv6-icmp"
	}
	pc, err := host.ListenPacket(network, from.String())
	must(t, err)
	t.Cleanup(func() { pc.Close() })
	return pinger{pc, f}
}

func (p pinger) proto() int {
	if p.f.is4() {
		return 1
	}
	return 58
}

// send sends an echo request.
func (p pinger) send(t *testing.T, to netip.Addr, id, seq int) {
	t.Helper()
	var kind icmp.Type = netipv4.ICMPTypeEcho
	if !p.f.is4() {
		kind = netipv6.ICMPTypeEchoRequest
	}
	m := icmp.Message{Type: kind, Body: &icmp.Echo{ID: id, Seq: seq, Data: []byte("are you there?")}}
	b, err := m.Marshal(nil) // the kernel fills in the checksum of ICMPv6
	must(t, err)
	_, err = p.WriteTo(b, &net.IPAddr{IP: to.AsSlice()})
	must(t, err)
}

// ping sends an echo request and waits for its answer.
func (p pinger) ping(t *testing.T, to netip.Addr, id, seq int) {
	t.Helper()
	p.send(t, to, id, seq)
	p.wait(t, to, func(m *message) bool {
		e, ok := m.Body.(*icmp.Echo)
		return ok && (m.Type == netipv4.ICMPTypeEchoReply || m.Type == netipv6.ICMPTypeEchoReply) && e.ID == id && e.Seq == seq
	})
}

// message is a received ICMP message.
type message struct {
	icmp.Message
	mtu    int     // what frag-needed and packet-too-big say
	quoted *quoted // what an error is about, else nil
}

// wait waits for a message from somebody.
func (p pinger) wait(t *testing.T, from netip.Addr, match func(*message) bool) *message {
	t.Helper()
	must(t, p.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 1<<16)
	for {
		n, sender, err := p.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("no such ICMP message came from %v", from)
		}
		must(t, err)
		m, err := p.parse(buf[:n])
		if err == nil && sender.String() == from.String() && match(m) {
			return m
		}
	}
}

func (p pinger) parse(b []byte) (*message, error) {
	m, err := icmp.ParseMessage(p.proto(), b)
	if err != nil {
		return nil, err
	}
	out := &message{Message: *m}
	switch body := m.Body.(type) {
	case *icmp.TimeExceeded:
		out.quoted = quote(body.Data)
	case *icmp.DstUnreach:
		out.quoted = quote(body.Data)
		out.mtu = int(binary.BigEndian.Uint16(b[6:])) // RFC 1191 section 4; zero for other codes
	case *icmp.PacketTooBig:
		out.quoted = quote(body.Data)
		out.mtu = body.MTU
	}
	return out, nil
}

// quoted is the beginning of a packet inside of an ICMP error.
type quoted struct {
	src, dst netip.AddrPort
	damaged  bool // the sum of the IPv4 header is wrong
}

// quote reads the packet that an ICMP error is about.
func quote(b []byte) *quoted {
	q := &quoted{}
	var src, dst netip.Addr
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		src, dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		header := b[:min(len(b), int(b[0]&15)*4)]
		q.damaged = checksum(header) != 0
		b = b[len(header):]
	case len(b) >= 40 && b[0]>>4 == 6:
		src, dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		b = b[40:]
	}
	if len(b) < 4 {
		return nil
	}
	q.src, q.dst = at(src, binary.BigEndian.Uint16(b)), at(dst, binary.BigEndian.Uint16(b[2:]))
	return q
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// about matches ICMP errors about packets from src to dst.
func about(src, dst netip.AddrPort) func(*message) bool {
	return func(m *message) bool {
		return m.quoted != nil && m.quoted.src == src && m.quoted.dst == dst
	}
}
