// Package virtio reads and writes the virtio_net_hdr that precedes frames on
// packet sockets and TUN queues (linux/virtio_net.h; legacy layout, byte order of the host).
package virtio

import (
	"encoding/binary"

	"example.com/culvert/dataplane/packet"
)

// Len is the length of the header in bytes.
const Len = 10

var order = binary.NativeEndian

// Get returns the header at the start of b.
func Get(b []byte) packet.Offload {
	_ = b[Len-1]
	return packet.Offload{
		Flags:      b[0],
		GSOType:    b[1],
		HdrLen:     order.Uint16(b[2:]),
		GSOSize:    order.Uint16(b[4:]),
		CsumStart:  order.Uint16(b[6:]),
		CsumOffset: order.Uint16(b[8:]),
	}
}

// Put writes o to the start of b, for a frame that has shift bytes (a VLAN tag)
// more before its transport header than o knows of. hdrLen replaces the hint of o.
func Put(b []byte, o *packet.Offload, shift, hdrLen int) {
	_ = b[Len-1]
	start := o.CsumStart
	flags := o.Flags & packet.NeedsCsum // the kernel has no use for DataValid
	if flags != 0 {
		start += uint16(shift)
	}
	b[0] = flags
	b[1] = o.GSOType
	order.PutUint16(b[2:], uint16(hdrLen))
	order.PutUint16(b[4:], o.GSOSize)
	order.PutUint16(b[6:], start)
	order.PutUint16(b[8:], o.CsumOffset)
}

// HdrLen returns the header length to announce for a frame of n bytes: the hint of
// o, shifted, but never more than the frame. No hint stays none: a TAP refuses one
// that is shorter than an Ethernet header.
func HdrLen(o *packet.Offload, shift, n int) int {
	if o.HdrLen == 0 {
		return 0
	}
	return min(int(o.HdrLen)+shift, n)
}
