// Package steer says which queue of a port takes a packet, so that both directions of
// a flow meet on one worker.
//
// Packets fall into Buckets by what they carry; a Table says which queue has a bucket.
// A bucket is made of what is the same in both directions and on both sides of the
// gateway as long as only addresses are translated: of both ports, or of the
// identifier of ICMP. Masquerading keeps the port where it can, and looks for one that
// keeps the bucket where it can not (nat.Search). What has no ports, fragments first
// of all, goes by its addresses: all pieces of a datagram to one queue.
//
// Nothing depends on it. All workers share one table, so a packet that is steered
// elsewhere costs a few cache lines that change cores.
//
// Program is the same for the kernel: a classic filter for a fanout group of packet
// sockets.
package steer

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack/tuple"
)

// Buckets is how many buckets there are.
const Buckets = tuple.PortBuckets

// Table says which queue takes the packets of each bucket.
type Table [Buckets]uint8

// Even returns a Table that spreads the buckets over queues 0..n-1, neighbouring
// buckets on one queue. 1 <= n <= 256; beyond Buckets queues get nothing.
func Even(n int) (t Table) {
	n = min(n, Buckets)
	for b := range t {
		t[b] = uint8(b * n / Buckets)
	}
	return t
}

// Offsets of what is read, from the start of the IP header; the ports are that far from
// the end of it. The identifier is the same in an echo request and its reply. In ICMP
// errors something else is there, and nothing says which flow they are about.
const (
	ip4Fragment = 6 // offset and MF; DF is not asked
	ip4Protocol = 9
	ip4Src      = 12
	ip4Dst      = 16
	fragmented  = 0x3fff

	ip6Next   = 6
	ip6Src    = 8
	ip6Dst    = 24
	ip6Length = 40

	offPorts = 0
	offIdent = 4
)

// Of returns the bucket of the packet that starts with the given bytes, of the given
// EtherType. What is no IP, or too short, is in bucket 0.
func Of(etherType uint16, p []byte) uint8 {
	switch {
	case etherType == unix.ETH_P_IP && len(p) >= 20:
		return of4(p)
	case etherType == unix.ETH_P_IPV6 && len(p) >= ip6Length:
		return of6(p)
	}
	return 0
}

func of4(p []byte) uint8 {
	be := binary.BigEndian
	if be.Uint16(p[ip4Fragment:])&fragmented == 0 {
		if b, ok := ofTransport(p[ip4Protocol], unix.IPPROTO_ICMP, p[min(int(p[0]&15)*4, len(p)):]); ok {
			return b
		}
	}
	return ofAddresses(be.Uint32(p[ip4Src:]) ^ be.Uint32(p[ip4Dst:]))
}

func of6(p []byte) uint8 {
	be := binary.BigEndian
	if b, ok := ofTransport(p[ip6Next], unix.IPPROTO_ICMPV6, p[ip6Length:]); ok {
		return b
	}
	x := uint32(0)
	for i := 0; i < 16; i += 4 {
		x ^= be.Uint32(p[ip6Src+i:]) ^ be.Uint32(p[ip6Dst+i:])
	}
	return ofAddresses(x)
}

// ofTransport returns the bucket of a packet by its transport header, false if that has
// nothing to go by.
func ofTransport(proto, icmp uint8, p []byte) (b uint8, ok bool) {
	be := binary.BigEndian
	switch {
	case tuple.HasPorts(proto):
		if len(p) < offPorts+4 {
			return 0, true
		}
		return tuple.PortBucket(be.Uint16(p[offPorts:]) ^ be.Uint16(p[offPorts+2:])), true
	case proto == icmp:
		if len(p) < offIdent+2 {
			return 0, true
		}
		return tuple.PortBucket(be.Uint16(p[offIdent:])), true
	}
	return 0, false
}

func ofAddresses(x uint32) uint8 { return tuple.PortBucket(uint16(x ^ x>>16)) }
