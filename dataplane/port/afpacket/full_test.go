//go:build netns

package afpacket

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/internal/nstest"
)

// cable is a device whose far end is the test: frames that it does not read fill the
// device's queue, and the kernel has no buffers for more.
type cable struct {
	near nstest.End
	fd   int
}

// newCable makes a cable that holds so many frames.
func newCable(t *testing.T, room int) cable {
	t.Helper()
	c := cable{near: nstest.End{Netns: nstest.Namespace(t, "g"), Name: "g0"}}
	nstest.Do(t, c.near.Netns, func() (err error) {
		if c.fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		req, err := unix.NewIfreq(c.near.Name)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		return errors.Join(
			unix.IoctlIfreq(c.fd, unix.TUNSETIFF, req),
			unix.IoctlSetInt(c.fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4),
		)
	})
	t.Cleanup(func() { unix.Close(c.fd) })
	c.near.Change(t, func(l netlink.Link) error {
		return errors.Join(netlink.LinkSetIP6AddrGenMode(l, 1), netlink.LinkSetTxQLen(l, room), netlink.LinkSetMTU(l, 9000), netlink.LinkSetUp(l))
	})
	return c
}

// read takes the frames out of the cable and returns their numbers.
func (c cable) read(t *testing.T) (numbers []uint32) {
	t.Helper()
	buf := make([]byte, 1<<17)
	for {
		n, err := unix.Read(c.fd, buf)
		if errors.Is(err, unix.EAGAIN) {
			return numbers
		}
		if err != nil {
			t.Fatal(err)
		}
		if number := vnetHeader + numberAt; n > number+4 {
			numbers = append(numbers, binary.BigEndian.Uint32(buf[number:]))
		}
	}
}

const (
	vnetHeader = 10
	numberAt   = 54 // in a frame, behind headers of TCP
)

// withNumber is a frame of n bytes with a number in it, whole or to be segmented.
func withNumber(t *testing.T, number uint32, n int, gso uint8) *packet.Packet {
	t.Helper()
	const room = packet.Headroom
	mem := make([]byte, room+n)
	f := mem[room:]
	copy(f, []byte{0x02, 1, 2, 3, 4, 5, 0x02, 6, 7, 8, 9, 10, 0x08, 0x00})
	copy(f[14:], []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(f[16:], uint16(n-14))
	f[34+12] = 5 << 4
	binary.BigEndian.PutUint32(f[numberAt:], number)
	p := &packet.Packet{Mem: mem, Off: room, End: room + n}
	if gso != packet.GSONone {
		p.Offload = packet.Offload{Flags: packet.NeedsCsum, GSOType: gso, GSOSize: 1000, HdrLen: 54, CsumStart: 34, CsumOffset: 16}
	}
	return p
}

// TestFullDeviceIsRefusedCountedAndUsedAgain: the kernel says ENOBUFS. What it took
// leaves in order, what it did not is counted one by one, and then the port works again.
func TestFullDeviceIsRefusedCountedAndUsedAgain(t *testing.T) {
	const room, burst = 8, 100
	for _, tt := range []struct {
		name string
		size int
	}{{"frames of the ring", 200}, {"frames longer than a slot", 5000}} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCable(t, room)
			p := open(t, c.near, Config{})
			q := p.Queue(0)
			var total uint64
			for round := range uint32(3) {
				for i := range uint32(burst) {
					if st := q.Send(withNumber(t, round*1000+i, tt.size, packet.GSONone)); st != port.Sent {
						t.Fatalf("%v, want sent", st)
					}
				}
				refused := q.Flush()[port.Full]
				got := c.read(t)
				if len(got) != room || int(refused) != burst-room {
					t.Fatalf("round %d: %d frames left and %d were refused of %d, want %d and the rest", round, len(got), refused, burst, room)
				}
				for i, number := range got {
					if number != round*1000+uint32(i) {
						t.Errorf("round %d: frame %d is number %d: the order is lost", round, i, number)
					}
				}
				total += uint64(refused)
			}
			if st := q.Stats(); st.TxFrames != 3*room || st.TxRefused != total {
				t.Errorf("counted %d sent and %d refused, want %d and %d", st.TxFrames, st.TxRefused, 3*room, total)
			}
		})
	}
}

// TestDeviceThatWasFullGetsSuperPacketsDirectlyAgain: refusals for want of room look like
// those of a device that cannot segment, for a while.
func TestDeviceThatWasFullGetsSuperPacketsDirectlyAgain(t *testing.T) {
	const room = 8
	c := newCable(t, room)
	p := open(t, c.near, Config{})
	q := p.queues[0]
	send := func(number uint32) {
		t.Helper()
		if st := q.Send(withNumber(t, number, 5000, packet.GSOTCPv4)); st != port.Sent {
			t.Fatalf("%v, want sent", st)
		}
		if r := q.Flush(); r != [port.NumStatuses]uint32{} {
			t.Fatalf("refused %v, want the kernel to take it", r)
		}
	}
	strikes := &q.bulk.strikes[packet.GSOTCPv4]
	for i := range uint32(room + enoughStrikes) {
		send(i)
	}
	if *strikes != enoughStrikes {
		t.Fatalf("%d strikes after as many refusals, want %d", *strikes, enoughStrikes)
	}
	sent, got := 0, len(c.read(t))
	for ; *strikes > 0 && sent <= trialAfter; sent++ {
		send(uint32(sent))
		got += len(c.read(t))
	}
	if sent != trialAfter+1 || got != room+sent {
		t.Errorf("tried again after %d frames, of which with those before %d left; want %d and %d", sent, got, trialAfter+1, room+trialAfter+1)
	}
}
