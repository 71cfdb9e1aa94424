//go:build netns

package afpacket

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/internal/nstest"
	"example.com/culvert/dataplane/port/steer"
)

// ipFrame returns a frame to dst with a packet of 100 bytes of either family and
// anything in it, and that packet's EtherType. Its last eight bytes are n.
func ipFrame(dst net.HardwareAddr, r *rand.Rand, n uint64) (f []byte, etherType uint16) {
	f = frame(dst, 114)
	p := f[14:]
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	proto := []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6, unix.IPPROTO_SCTP, unix.IPPROTO_GRE}[r.IntN(6)]
	etherType = unix.ETH_P_IPV6
	p[0], p[6] = 0x60, proto
	if r.IntN(2) == 0 {
		etherType = unix.ETH_P_IP
		p[0], p[9] = 0x40|byte(5+r.IntN(4)), proto
		binary.BigEndian.PutUint16(p[6:], []uint16{0, 0x4000, 0x2000}[r.IntN(3)])
	}
	binary.BigEndian.PutUint16(f[12:], etherType)
	binary.BigEndian.PutUint64(p[92:], n)
	return f, etherType
}

func TestSteeredFramesGoWhereTheTableSays(t *testing.T) {
	n := newNetwork(t, 1)
	p := open(t, n.g0, Config{Queues: 3})
	host := newRaw(t, n.c0)
	mac := n.g0.MAC(t)
	r := rand.New(rand.NewPCG(1, 2))
	var scattered steer.Table
	for b := range scattered {
		scattered[b] = uint8(r.IntN(3))
	}
	for name, table := range map[string]steer.Table{"one": steer.Even(1), "two": steer.Even(2), "three": steer.Even(3), "any": scattered} {
		if err := p.Steer(&table); err != nil {
			t.Fatal(err)
		}
		var want [3]int
		for i := range 300 {
			f, etherType := ipFrame(mac, r, uint64(i))
			want[table[steer.Of(etherType, f[14:])]]++
			host.send(t, f)
		}
		var got [3]int
		pkts := make([]packet.Packet, 64)
		nstest.Eventually(t, "all frames arrived", func() bool {
			for i := range got {
				q := p.Queue(i)
				got[i] += q.Recv(pkts)
				q.Release()
			}
			return got[0]+got[1]+got[2] >= 300
		})
		if got != want {
			t.Errorf("%s: frames by queue %v, want %v", name, got, want)
		}
	}
}

func TestATaggedFrameIsSteeredLikeAnUntaggedOne(t *testing.T) {
	n := newNetwork(t, 1)
	p := open(t, n.g0, Config{Queues: 2})
	host := newRaw(t, n.c0)
	r := rand.New(rand.NewPCG(3, 4))
	table := steer.Even(2)
	var want, got [2]int
	for i := range 100 {
		f, etherType := ipFrame(n.g0.MAC(t), r, uint64(i))
		want[table[steer.Of(etherType, f[14:])]]++
		host.send(t, append(append(append([]byte{}, f[:12]...), 0x81, 0, 0, 42), f[12:]...))
	}
	pkts := make([]packet.Packet, 64)
	nstest.Eventually(t, "all frames arrived", func() bool {
		for i := range got {
			q := p.Queue(i)
			got[i] += q.Recv(pkts)
			q.Release()
		}
		return got[0]+got[1] >= 100
	})
	if got != want {
		t.Errorf("frames by queue %v, want %v", got, want)
	}
}

// While frames arrive the table changes all the time: each arrives once.
func TestSteeringUnderTrafficLosesNothing(t *testing.T) {
	n := newNetwork(t, 1)
	p := open(t, n.g0, Config{Queues: 2, Slots: 8192})
	host := newRaw(t, n.c0)
	const total = 4000
	stop := make(chan struct{})
	var steering sync.WaitGroup
	steering.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			table := steer.Even(1 + i%2)
			if err := p.Steer(&table); err != nil {
				t.Error(err)
				return
			}
		}
	})
	r := rand.New(rand.NewPCG(5, 6))
	mac := n.g0.MAC(t)
	for i := range total {
		f, _ := ipFrame(mac, r, uint64(i))
		host.send(t, f)
	}
	close(stop)
	steering.Wait()
	seen := make([]int, total)
	got := 0
	pkts := make([]packet.Packet, 64)
	nstest.Eventually(t, "all frames arrived", func() bool {
		for i := range 2 {
			q := p.Queue(i)
			k := q.Recv(pkts)
			for j := range k {
				f := pkts[j].Frame()
				seen[binary.BigEndian.Uint64(f[len(f)-8:])]++
			}
			got += k
			q.Release()
		}
		return got >= total
	})
	for i, times := range seen {
		if times != 1 {
			t.Fatalf("frame %d arrived %d times", i, times)
		}
	}
}
