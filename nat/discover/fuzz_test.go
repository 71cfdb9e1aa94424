package discover

import (
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// FuzzRead: whatever a NAT lets out, hosts read it without harm, and what they make
// of a whole packet is that packet.
func FuzzRead(f *testing.F) {
	in, out := firstOf(hosts4.Inside), firstOf(hosts4.Outside)
	f.Add((&datagram{proto: tcp, src: in, dst: out, flags: header.TCPFlagSyn, seq: 7}).bytes())
	question := &datagram{proto: udp, src: in, dst: out, data: []byte("question"), dontFrag: true}
	f.Add(question.bytes())
	f.Add((&datagram{proto: icmp, message: tooBig, src: out, dst: in, about: question, mtu: 1400}).bytes())
	six := &datagram{proto: udp, src: firstOf(hosts6.Inside), dst: firstOf(hosts6.Outside), data: make([]byte, 100)}
	for _, piece := range six.fragments(9, 48) {
		f.Add(piece)
	}
	f.Fuzz(func(t *testing.T, ip []byte) {
		p := &prober{parts: make(map[partKey]*parts), fault: make(map[string]struct{})}
		d, err := p.read(Outside, ip)
		if err != nil || d == nil {
			return
		}
		again, err := p.read(Outside, d.bytes())
		if err != nil || again == nil || !d.is(again) && d.proto != tcp && len(d.data) >= 4 {
			t.Errorf("%x is read as %+v, which is read as %+v, %v", ip, d, again, err)
		}
	})
}
