package pcap

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/google/gopacket"
	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

const (
	frames = 64 // lent at most

	macs      = 12 // both addresses: the VLAN tag goes behind them
	tagLen    = 4
	tpid8021Q = 0x8100
)

// queue is the only queue of a port.
type queue struct {
	sender
	bufs [frames][]byte // Headroom bytes, then the frame; reused
	lent int

	rx, bytes, truncated atomic.Uint64
}

// FD implements port.Queue.
func (q *queue) FD() int { return -1 }

// Recv implements port.Queue.
func (q *queue) Recv(pkts []packet.Packet) int {
	p := q.port
	n := 0
	for n < len(pkts) && q.lent < frames && p.err == nil {
		at := p.nextInfo.Timestamp
		if !p.limit.IsZero() && at.After(p.limit) {
			break
		}
		q.bufs[q.lent] = append(append(q.bufs[q.lent][:0], make([]byte, packet.Headroom)...), p.next...)
		q.fill(&pkts[n], q.bufs[q.lent])
		q.rx.Add(1)
		q.bytes.Add(uint64(len(p.next)))
		q.lent++
		n++
		p.setTime(at)
		p.advance()
	}
	return n
}

func (q *queue) fill(k *packet.Packet, mem []byte) {
	k.Mem, k.Off, k.End = mem, packet.Headroom, len(mem)
	k.Offload = packet.Offload{}
	k.VLAN, k.HasVLAN = 0, false
	k.Link, k.LinkKind = q.port.info.Link, unix.PACKET_HOST
	if k.Link != packet.LinkEthernet {
		return
	}
	f := k.Frame()
	switch mac := q.port.cfg.MAC; {
	case [6]byte(f) == [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}:
		k.LinkKind = unix.PACKET_BROADCAST
	case f[0]&1 != 0:
		k.LinkKind = unix.PACKET_MULTICAST
	case mac != [6]byte{} && mac != [6]byte(f):
		k.LinkKind = unix.PACKET_OTHERHOST
	}
	if len(f) >= port.EthernetHeader+tagLen && binary.BigEndian.Uint16(f[macs:]) == tpid8021Q {
		k.VLAN, k.HasVLAN = binary.BigEndian.Uint16(f[macs+2:]), true
		copy(f[tagLen:], f[:macs])
		k.Off += tagLen
	}
}

// Release implements port.Queue.
func (q *queue) Release() { q.lent = 0 }

// Stats implements port.Queue.
func (q *queue) Stats() port.Stats {
	return port.Stats{
		RxFrames: q.rx.Load(), RxBytes: q.bytes.Load(), RxTruncated: q.truncated.Load(),
		TxFrames: q.sent.Load(), TxBytes: q.sentBytes.Load(), TxRefused: q.refused.Load(),
	}
}

// sender writes frames to the output file.
type sender struct {
	port  *Port
	frame []byte // a frame with its tag

	sent, sentBytes, refused atomic.Uint64
}

// Send implements port.Sender. Without an output file frames vanish.
func (s *sender) Send(k *packet.Packet) port.Status {
	if st := port.Fit(k, s.port.info.Link, s.port.info.MTU, port.WithGSO); st != port.Sent {
		return st
	}
	data := k.Frame()
	if k.HasVLAN && s.port.info.Link == packet.LinkEthernet {
		s.frame = append(s.frame[:0], data[:macs]...)
		s.frame = binary.BigEndian.AppendUint16(s.frame, tpid8021Q)
		s.frame = binary.BigEndian.AppendUint16(s.frame, k.VLAN)
		s.frame = append(s.frame, data[macs:]...)
		data = s.frame
	}
	if !s.port.write(data) {
		s.refused.Add(1)
		return port.Full
	}
	s.sent.Add(1)
	s.sentBytes.Add(uint64(len(data)))
	return port.Sent
}

// write appends a frame to the output file and reports whether that worked.
func (p *Port) write(data []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out == nil {
		return true
	}
	ci := gopacket.CaptureInfo{Timestamp: p.now, CaptureLength: len(data), Length: len(data)}
	return p.out.WritePacket(ci, data) == nil
}

// Flush implements port.Sender: the file has everything when it returns.
func (s *sender) Flush() (refused [port.NumStatuses]uint32) {
	s.port.mu.Lock()
	defer s.port.mu.Unlock()
	if s.port.out != nil && s.port.out.Flush() != nil {
		refused[port.Full] = 1 // which frames are lost, a buffered writer cannot tell
	}
	return refused
}

// Close implements port.Closer.
func (s *sender) Close() error { return nil }
