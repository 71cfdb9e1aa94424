//go:build netns

package tun

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/internal/nstest"
	"example.com/culvert/dataplane/port/steer"
)

// etherTypeOf returns the EtherType that an IP packet would have.
func etherTypeOf(p []byte) uint16 {
	if p[0]>>4 == 6 {
		return unix.ETH_P_IPV6
	}
	return unix.ETH_P_IP
}

func TestPacketsComeOutOfTheQueueThatTheTableSays(t *testing.T) {
	ns := nstest.Namespace(t, "c")
	p := openTUN(t, ns, client4, client6, Config{Queues: 3})
	for round := range 3 {
		table := steer.Even(3 - round)
		if err := p.Steer(&table); err != nil {
			t.Fatal(err)
		}
		const each = 30
		for range each {
			for own, far := range map[string]string{client4: server4, client6: server6} { // from another port each time
				s := nstest.Socket(t, ns, own)
				to := &net.UDPAddr{IP: net.ParseIP(far), Port: 53}
				if _, err := s.WriteTo([]byte("question"), to); err != nil {
					t.Fatal(err)
				}
				s.Close()
			}
		}
		got := 0
		pkts := make([]packet.Packet, 64)
		nstest.Eventually(t, "all packets come out", func() bool {
			for i := range 3 {
				q := p.Queue(i)
				n := q.Recv(pkts)
				for j := range pkts[:n] {
					ip := pkts[j].Frame()
					if want := table[steer.Of(etherTypeOf(ip), ip)]; want != uint8(i) {
						t.Errorf("round %d: a packet came out of queue %d, want %d: % x", round, i, want, ip)
					}
				}
				got += n
				q.Release()
			}
			return got >= 2*each
		})
	}
}
