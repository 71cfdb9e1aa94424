package dataplane

import (
	"fmt"
	"strings"
	"testing"

	"example.com/culvert/dataplane/packet"
)

// TestCommandsAtBordersOfSegmentsOpenNothing: a browser posts a form to a port of a
// helper, so long that a command of the protocol comes to lie where a segment starts: one
// on the wire, or one of those that a super-packet stands for.
func TestCommandsAtBordersOfSegmentsOpenNothing(t *testing.T) {
	const (
		mss        = 1400
		posted     = "POST / HTTP/1.1\r\nHost: example.org\r\n\r\n"
		atItsPlace = "where it is one" // which opens
	)
	for _, tt := range []struct {
		family, client, seen, server string
		port                         int
		begin, command               string
	}{
		{"IPv4", "10.0.0.5:40000", "203.0.113.1:40000", "198.51.100.7", 21, "USER ftp\r\n", "PORT 10,0,0,5,23,112\r\n"},
		{"IPv6", "[2001:db8:1::5]:40000", "[2001:db8:1::5]:40000", "[2001:db8:ff::7]", 21, "USER ftp\r\n", "EPRT |2|2001:db8:1::5|6000|\r\n"},
		{"IPv4", "10.0.0.5:40000", "203.0.113.1:40000", "198.51.100.7", 5060, "", invite("10.0.0.5", 1, 8000)},
		{"IPv6", "[2001:db8:1::5]:40000", "[2001:db8:1::5]:40000", "[2001:db8:ff::7]", 5060, "",
			strings.ReplaceAll(strings.ReplaceAll(invite("2001:db8:1::5", 1, 8000), "IP4", "IP6"), "@2001:db8:1::5", "@[2001:db8:1::5]")},
	} {
		for _, way := range []string{"segments", "a super-packet", atItsPlace} {
			t.Run(fmt.Sprintf("%s port %d %s", tt.family, tt.port, way), func(t *testing.T) {
				l := phonesLab(t)
				to := fmt.Sprintf("%s:%d", tt.server, tt.port)
				l.send("lan", tcp(tt.client, to, seq(100, 0)))
				l.send("wan", tcp(to, tt.seen, flags(packet.SYN|packet.ACK), seq(500, 101)))
				l.send("lan", tcp(tt.client, to, flags(ackFlag), seq(101, 501)))
				if tt.port == 21 { // by a server that plays along
					l.send("wan", tcp(to, tt.seen, flags(ackFlag), seq(501, 101), body("220 ready\r\n")))
				}
				text := posted + strings.Repeat("x", 2*mss-len(posted)) + tt.command
				if way == atItsPlace {
					text = tt.begin + tt.command
				}
				if way == "a super-packet" {
					l.inject("lan", superTCP(l, "lan", tt.client, to, 0, mss, seq(101, 501), body(text)))
					l.step()
				} else {
					for at := 0; at < len(text); at += mss {
						l.send("lan", tcp(tt.client, to, flags(ackFlag), seq(uint32(101+at), 501), body(text[at:min(at+mss, len(text))])))
					}
				}
				l.ports["wan"].TakeFrames()
				l.ports["lan"].TakeFrames()
				if opened := l.table.ExpectLen() > 0; opened != (way == atItsPlace) {
					t.Errorf("flows are expected: %v", opened)
				}
			})
		}
	}
}
