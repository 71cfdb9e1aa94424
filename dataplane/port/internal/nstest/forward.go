//go:build netns

package nstest

import (
	"encoding/binary"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

// Side is one end of a forwarder: a port, and the MAC address behind it.
type Side struct {
	Port port.Port
	Peer [6]byte
	VLAN uint16 // tag of all frames out there, 0 without
}

// Forward carries IP packets between two ports until the test ends, one worker for
// each queue. It returns the number of packets that the drivers refused.
func Forward(t testing.TB, a, b Side) *atomic.Int64 {
	t.Helper()
	return run(t, min(a.Port.Info().NumQueues, b.Port.Info().NumQueues), func(i int) *worker {
		sides := [2]Side{a, b}
		return &worker{
			q:     [2]port.Queue{a.Port.Queue(i), b.Port.Queue(i)},
			cross: func(p *packet.Packet, in int) bool { return Cross(p, sides[in], sides[1-in]) },
		}
	})
}

// run starts n workers, which end with the test.
func run(t testing.TB, n int, newWorker func(i int) *worker) *atomic.Int64 {
	t.Helper()
	var refused atomic.Int64
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	for i := range n {
		w := newWorker(i)
		w.stop, w.refused = stop, &refused
		go func() {
			w.run()
			done <- struct{}{}
		}()
	}
	t.Cleanup(func() {
		unix.Write(stop, binary.NativeEndian.AppendUint64(nil, 1))
		for range n {
			<-done
		}
		unix.Close(stop)
	})
	return &refused
}

type worker struct {
	q       [2]port.Queue
	cross   func(p *packet.Packet, in int) bool // makes a frame of queue in one for the other
	pkts    [64]packet.Packet
	stop    int
	refused *atomic.Int64
}

func (w *worker) run() {
	fds := []unix.PollFd{{Fd: int32(w.stop), Events: unix.POLLIN}}
	for _, q := range w.q {
		for _, fd := range port.PollFDs(q) {
			fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
	}
	for {
		if w.pass(0)+w.pass(1) > 0 {
			continue
		}
		if _, err := unix.Ppoll(fds, nil, nil); err != nil && err != unix.EINTR {
			return
		}
		if fds[0].Revents != 0 {
			return
		}
	}
}

// pass forwards one batch from side i to the other and returns its length.
func (w *worker) pass(i int) int {
	in, out := w.q[i], w.q[1-i]
	n := in.Recv(w.pkts[:])
	for k := range w.pkts[:n] {
		if p := &w.pkts[k]; w.cross(p, i) {
			if out.Send(p) != port.Sent {
				w.refused.Add(1)
			}
		}
	}
	for _, r := range out.Flush() {
		w.refused.Add(int64(r))
	}
	in.Release()
	return n
}

// Cross makes p, received at from, a frame for to. It reports false for what is not IP.
func Cross(p *packet.Packet, from, to Side) bool {
	shift := 0
	if p.Link == packet.LinkEthernet {
		t := binary.BigEndian.Uint16(p.Mem[p.Off+12:])
		if t != unix.ETH_P_IP && t != unix.ETH_P_IPV6 {
			return false
		}
		p.Off += port.EthernetHeader
		shift -= port.EthernetHeader
	}
	info := to.Port.Info()
	if info.Link == packet.LinkEthernet {
		t := uint16(unix.ETH_P_IP)
		if p.Mem[p.Off]>>4 == 6 {
			t = unix.ETH_P_IPV6
		}
		p.Off -= port.EthernetHeader
		shift += port.EthernetHeader
		copy(p.Mem[p.Off:], to.Peer[:])
		copy(p.Mem[p.Off+6:], info.MAC[:])
		binary.BigEndian.PutUint16(p.Mem[p.Off+12:], t)
	}
	p.Link = info.Link
	p.VLAN, p.HasVLAN = to.VLAN, to.VLAN != 0
	if p.Offload.Flags&packet.NeedsCsum != 0 {
		p.Offload.CsumStart = uint16(int(p.Offload.CsumStart) + shift)
	}
	p.Offload.HdrLen = uint16(max(0, int(p.Offload.HdrLen)+shift))
	return true
}

// Relay carries frames between two Ethernet ports as they are, until the test ends.
func Relay(t testing.TB, a, b port.Port) {
	t.Helper()
	run(t, 1, func(int) *worker {
		return &worker{q: [2]port.Queue{a.Queue(0), b.Queue(0)}, cross: func(*packet.Packet, int) bool { return true }}
	})
}
