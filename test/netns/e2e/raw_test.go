//go:build netns

package e2e

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// udpDatagram builds a UDP header with its payload.
func udpDatagram(t *testing.T, from, to netip.AddrPort, payload []byte) []byte {
	t.Helper()
	udp := &layers.UDP{SrcPort: layers.UDPPort(from.Port()), DstPort: layers.UDPPort(to.Port())}
	must(t, udp.SetNetworkLayerForChecksum(network(from.Addr(), to.Addr())))
	b := gopacket.NewSerializeBuffer()
	must(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, udp, gopacket.Payload(payload)))
	return b.Bytes()
}

// network is an IP header for a pseudo header.
func network(src, dst netip.Addr) gopacket.NetworkLayer {
	if src.Is4() {
		return &layers.IPv4{SrcIP: src.AsSlice(), DstIP: dst.AsSlice(), Protocol: layers.IPProtocolUDP}
	}
	return &layers.IPv6{SrcIP: src.AsSlice(), DstIP: dst.AsSlice(), NextHeader: layers.IPProtocolUDP}
}

// fragment is a piece of an IP payload.
type fragment struct {
	offset int // bytes, a multiple of 8
	more   bool
	data   []byte
}

// cut splits a payload into fragments of size bytes, a multiple of 8.
func cut(payload []byte, size int) []fragment {
	var all []fragment
	for at := 0; at < len(payload); at += size {
		end := min(at+size, len(payload))
		all = append(all, fragment{at, end < len(payload), payload[at:end]})
	}
	return all
}

const (
	protoUDP  = 17
	protoFrag = 44
	hopLimit  = 64
)

// packet builds the IP packet of a fragment; offset 0 without more is a whole
// datagram.
func (g fragment) packet(src, dst netip.Addr, id uint32) []byte {
	whole := g.offset == 0 && !g.more
	flags := uint16(g.offset)
	if src.Is4() {
		b := make([]byte, 20, 20+len(g.data))
		b[0], b[8], b[9] = 0x45, hopLimit, protoUDP
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(g.data)))
		binary.BigEndian.PutUint16(b[4:], uint16(id))
		flags /= 8
		if g.more {
			flags |= 0x2000
		}
		binary.BigEndian.PutUint16(b[6:], flags)
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(b[10:], checksum(b))
		return append(b, g.data...)
	}
	b := make([]byte, 40, 48+len(g.data))
	b[0], b[6], b[7] = 0x60, protoUDP, hopLimit
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	if !whole {
		b[6] = protoFrag
		if g.more {
			flags |= 1
		}
		b = append(b, protoUDP, 0, byte(flags>>8), byte(flags))
		b = binary.BigEndian.AppendUint32(b, id)
	}
	b = append(b, g.data...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	return b
}

// sendRaw sends whole IP packets out of a host, whatever their source. The host's
// kernel finds the way.
func sendRaw(t *testing.T, host *netns.Host, dst netip.Addr, packets ...[]byte) {
	t.Helper()
	must(t, host.Do(func() (err error) {
		domain, to := unix.AF_INET, unix.Sockaddr(nil)
		if dst.Is4() {
			to = &unix.SockaddrInet4{Addr: dst.As4()}
		} else {
			domain, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: dst.As16()}
		}
		fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unix.Close(fd)) }()
		for _, p := range packets {
			if err := unix.Sendto(fd, p, 0, to); err != nil {
				return err
			}
		}
		return nil
	}))
}
