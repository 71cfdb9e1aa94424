//go:build netns

package afpacket

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

// TestSocketWithoutRoomIsRefusedCountedAndUsedAgain: frames that a slow queueing
// discipline holds fill the socket's buffer, and the kernel says EAGAIN.
func TestSocketWithoutRoomIsRefusedCountedAndUsedAgain(t *testing.T) {
	const burst = 100
	for _, tt := range []struct {
		name string
		size int
	}{{"frames of the ring", 1000}, {"frames longer than a slot", 2500}} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t, 1)
			n.mtu(t, 9000)
			slow := func(l netlink.Link) *netlink.Tbf {
				return &netlink.Tbf{
					QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)},
					Rate:       125_000, Limit: 1 << 20, Buffer: 375_000, // 125 kB/s; 24 ms of it, 3 kB, at once
				}
			}
			n.g0.Change(t, func(l netlink.Link) error { return netlink.QdiscReplace(slow(l)) })
			p := open(t, n.g0, Config{Qdisc: UseQdisc})
			q := p.queues[0]
			for _, s := range []*socket{q.ring, q.bulk.direct} {
				if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1); err != nil { // the kernel makes it 4.5 kB
					t.Fatal(err)
				}
			}
			host := newRaw(t, n.c0)
			send := func(size int) (refused uint32) {
				t.Helper()
				f := packet.Packet{Mem: frame(n.c0.MAC(t), size), End: size}
				if st := q.Send(&f); st != port.Sent {
					t.Fatalf("%v, want sent", st)
				}
				return q.Flush()[port.Full]
			}
			refused := uint32(0)
			for range burst {
				refused += send(tt.size)
			}
			st := q.Stats()
			if refused == 0 || st.TxRefused != uint64(refused) || st.TxFrames+st.TxRefused != burst {
				t.Errorf("%d frames: %d refused, counted %d and %d sent; want some refused and each counted once", burst, refused, st.TxRefused, st.TxFrames)
			}
			n.g0.Change(t, func(l netlink.Link) error { return netlink.QdiscDel(slow(l)) })
			if refused := send(77); refused > 0 {
				t.Error("refused when there is room again")
			}
			for {
				if got, _ := host.receive(t); len(got) == 77 {
					break
				}
			}
		})
	}
}
