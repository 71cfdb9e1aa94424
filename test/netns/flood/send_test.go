//go:build netns

package flood

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// Protocols.
const (
	icmp = 1
	tcp  = 6
	udp  = 17
)

// packet writes an IPv4 packet into b and returns it: rest follows the ports of the
// transport header, and sum is where in that header the checksum is.
func packet(b []byte, proto uint8, src, dst [4]byte, sport, dport uint16, sum int, rest []byte) []byte {
	b = append(b[:0], 0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0)
	b = append(append(b, src[:]...), dst[:]...)
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, sport), dport)
	b = append(b, rest...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	seal(b)
	if sum >= 0 {
		n := uint32(len(b) - 20)
		if proto == icmp {
			n = 0
		} else {
			n += uint32(proto) + add(b[12:20])
		}
		binary.BigEndian.PutUint16(b[20+sum:], ^fold(n+add(b[20:])))
	}
	return b
}

// packet6 is packet for IPv6.
func packet6(b []byte, proto uint8, src, dst [16]byte, sport, dport uint16, sum int, rest []byte) []byte {
	b = append(b[:0], 0x60, 0, 0, 0, 0, 0, proto, 64)
	b = append(append(b, src[:]...), dst[:]...)
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, sport), dport)
	b = append(b, rest...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	if sum >= 0 {
		binary.BigEndian.PutUint16(b[40+sum:], ^fold(uint32(len(b)-40)+uint32(proto)+add(b[8:40])+add(b[40:])))
	}
	return b
}

// seal sets the checksum of the IPv4 header.
func seal(ip []byte) {
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^fold(add(ip[:20])))
}

func add(b []byte) (s uint32) {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// Parts of headers behind the ports.
var (
	synRest = []byte{0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0}
	udpRest = []byte{0, 20, 0, 0, 'f', 'l', 'o', 'o', 'd', 'f', 'l', 'o', 'o', 'd', '.', '.'}
)

// within returns an address of 2^bits ones from base on.
func within(r *rand.Rand, base [4]byte, bits int) (a [4]byte) {
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(base[:])|r.Uint32()>>(32-bits))
	return a
}

// within6 returns an address with random bytes from one on.
func within6(r *rand.Rand, base [16]byte, from int) [16]byte {
	for ; from < len(base); from++ {
		base[from] = byte(r.Uint32())
	}
	return base
}

// port returns a port that is not one of those with a helper.
func port(r *rand.Rand) uint16 { return uint16(1024 + 8192 + r.IntN(65536-1024-8192)) }

// Addresses of floods. Those inside and outside are behind the flooder, so that the
// gateway has one neighbour to ask for; the others are behind the server, which has
// nothing to say to them.
var (
	insiders  = [4]byte{10, 64, 0, 0}   // 14 bits of hosts
	outsiders = [4]byte{198, 18, 0, 0}  // 16 bits
	anywhere  = [4]byte{100, 64, 0, 0}  // 20 bits
	onePeer   = [4]byte{100, 64, 0, 9}  //
	gateway   = [4]byte{203, 0, 113, 1} // its outside address

	insiders6  = [16]byte{0xfd, 0x64}                                     // a /48, of which floods of one network use the first /64
	anywhere6  = [16]byte{0x20, 0x01, 0x0d, 0xb8, 0x0f}                   // a /40
	neighbours = [16]byte{0x20, 0x01, 0x0d, 0xb8, 0x02, 0x03, 0x00, 0x00} // a /64: the outside link
)

// flood is one kind.
type flood struct {
	name    string
	outside bool // where it comes from
	rate    int  // packets a second, of a long run
	last    time.Duration
	next    func(i int, r *rand.Rand, b []byte) []byte
}

// forwarded is the port of the gateway that leads to a service of the user's.
const forwarded = 8080

// floods are all kinds.
var floods = []flood{
	{name: "SYN, inside, sources and ports at random", next: func(_ int, r *rand.Rand, b []byte) []byte {
		return packet(b, tcp, within(r, insiders, 14), within(r, anywhere, 20), port(r), port(r), 16, synRest)
	}},
	{name: "UDP, inside, sources and ports at random", next: func(_ int, r *rand.Rand, b []byte) []byte {
		return packet(b, udp, within(r, insiders, 14), within(r, anywhere, 20), port(r), port(r), 6, udpRest)
	}},
	{name: "ICMP, inside, sources and identifiers at random", next: func(_ int, r *rand.Rand, b []byte) []byte {
		return packet(b, icmp, within(r, insiders, 14), within(r, anywhere, 20), 0x800, 0, 2, []byte{byte(r.Uint32()), byte(r.Uint32()), 0, 1, 'f', 'l'})
	}},
	{name: "fragments whose others never come", next: func(i int, r *rand.Rand, b []byte) []byte {
		b = packet(b, udp, within(r, insiders, 14), within(r, anywhere, 20), port(r), port(r), -1, filler[:1000])
		binary.BigEndian.PutUint16(b[4:], uint16(r.Uint32()))
		binary.BigEndian.PutUint16(b[6:], []uint16{0x2000, 0x2000 | 125, 125}[i%3])
		seal(b)
		return b
	}},
	{name: "SYN, inside, IPv6, sources of one /64 at random", next: func(_ int, r *rand.Rand, b []byte) []byte {
		return packet6(b, tcp, within6(r, insiders6, 8), within6(r, anywhere6, 5), port(r), port(r), 16, synRest)
	}},
	{name: "UDP, inside, IPv6, sources of a /48 at random", next: func(_ int, r *rand.Rand, b []byte) []byte {
		return packet6(b, udp, within6(r, insiders6, 6), within6(r, anywhere6, 5), port(r), port(r), 6, udpRest)
	}},
	{name: "IPv6, neighbours at random on the outside link", next: func(_ int, r *rand.Rand, b []byte) []byte {
		return packet6(b, udp, within6(r, insiders6, 8), within6(r, neighbours, 8), port(r), port(r), 6, udpRest)
	}},
	{name: "fragments of IPv6 whose others never come", next: func(i int, r *rand.Rand, b []byte) []byte {
		at := []uint16{1, 125<<3 | 1, 125 << 3}[i%3] // offset and whether more follow (RFC 8200 section 4.5)
		b = packet6(b, 44, within6(r, insiders6, 8), within6(r, anywhere6, 5), udp<<8, at, -1, filler[:1004])
		binary.BigEndian.PutUint32(b[44:], r.Uint32())
		return b
	}},
	{name: "SYN, outside, at a forwarded port", outside: true, next: func(_ int, r *rand.Rand, b []byte) []byte {
		return packet(b, tcp, within(r, outsiders, 16), gateway, port(r), forwarded, 16, synRest)
	}},
	{name: "UDP, outside, at ports at random", outside: true, next: func(_ int, r *rand.Rand, b []byte) []byte {
		return packet(b, udp, within(r, outsiders, 16), gateway, port(r), port(r), 6, udpRest)
	}},
	{name: "announcements of calls (SIP), one client", next: func(i int, r *rand.Rand, b []byte) []byte {
		text := invite(i)
		h := binary.BigEndian.AppendUint16(nil, uint16(8+len(text)))
		return packet(b, udp, insiders, onePeer, uint16(20000+i%1000), 5060, 6, append(append(h, 0, 0), text...))
	}},
	{name: "ports and addresses that cancel out", next: func(i int, r *rand.Rand, b []byte) []byte {
		x := r.Uint32()
		src, dst, at := insiders, anywhere, uint16(x)|0x4000
		src[2], src[3], dst[2], dst[3] = byte(x>>24)&0x3f, byte(x>>16), byte(x>>24)&0x3f, byte(x>>16)
		return packet(b, udp, src, dst, at, at^0x1234, 6, udpRest)
	}},
	{name: "one client, 500,000 flows", rate: 55000, last: 10 * time.Second, next: func(i int, _ *rand.Rand, b []byte) []byte {
		dst := anywhere
		dst[3] = byte(1 + i/50000)
		return packet(b, udp, insiders, dst, uint16(10000+i%50000), 9, 6, udpRest)
	}},
}

var filler [1500]byte

// invite is the i-th call of one client.
func invite(i int) []byte {
	sdp := fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 10.64.0.0\r\ns=-\r\nc=IN IP4 10.64.0.0\r\nt=0 0\r\nm=audio %d RTP/AVP 0\r\n", 10000+2*(i%25000))
	return fmt.Appendf(nil, "INVITE sip:b@100.64.0.9 SIP/2.0\r\nVia: SIP/2.0/UDP 10.64.0.0:%d;branch=z9hG4bK%d\r\nFrom: <sip:a@example.org>;tag=%[2]d\r\n"+
		"To: <sip:b@example.org>\r\nCall-ID: %[2]d@10.64.0.0\r\nCSeq: 1 INVITE\r\nContact: <sip:a@10.64.0.0:%[1]d>\r\nContent-Type: application/sdp\r\nContent-Length: %[3]d\r\n\r\n%[4]s",
		20000+i%1000, i, len(sdp), sdp)
}

// send sends a flood from an interface of a host to a link-layer address until ctx ends,
// and returns how many packets that were.
func (f *flood) send(ctx context.Context, from *netns.Host, name string, to net.HardwareAddr, rate int) (n int, err error) {
	err = from.Do(func() (err error) {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // 0: it receives nothing
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unix.Close(fd)) }()
		at := &unix.SockaddrLinklayer{Ifindex: ifi.Index, Halen: uint8(len(to))}
		copy(at.Addr[:], to)
		r, b := rand.New(rand.NewPCG(1, 2)), make([]byte, 0, 2048)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for began := time.Now(); ; {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			due := int(time.Since(began).Seconds() * float64(rate))
			for n = max(n, due-rate/20); n < due; n++ { // what was missed for more than 50 ms stays so
				b = f.next(n, r, b)
				if at.Protocol = 0x0008; b[0]>>4 == 6 { // ETH_P_IP
					at.Protocol = 0xdd86 // ETH_P_IPV6
				}
				if err := unix.Sendto(fd, b, 0, at); err != nil && !errors.Is(err, unix.ENOBUFS) {
					return err
				}
			}
		}
	})
	return n, err
}
