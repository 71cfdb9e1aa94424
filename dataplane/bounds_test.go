package dataplane

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/alg/ftp"
	"example.com/culvert/alg/sip"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
)

// announce has a host announce n sockets in datagrams of one flow.
func (l *lab) announce(host string, flow, n int) {
	l.Helper()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	to := "198.51.100.7:5000"
	if host[0] == '[' {
		to = "[2001:db8:ff::7]:5000"
	}
	for i := range n {
		l.send("lan", udp(fmt.Sprintf("%s:%d", host, 30000+flow), to, body(fmt.Sprintf("@%s:%d\n", host, 2000+100*flow+i))))
	}
	l.ports["wan"].TakeFrames()
}

func TestBoundsOfHelpersHoldFromAReloadOn(t *testing.T) {
	for _, tt := range []struct {
		claim   string
		bounds  HelperBounds
		flows   int    // of one client, each with five announcements
		granted uint64 // of them
	}{
		{"without bounds of its own", HelperBounds{}, 3, 15},
		{"of a flow in a second", HelperBounds{FlowPerSec: 2}, 3, 6},
		{"of a client in a second", HelperBounds{ClientPerSec: 7}, 3, 7},
		{"of a client at a time", HelperBounds{ClientExpectations: 3}, 3, 6}, // the first flow has five, two of them at a time
	} {
		t.Run(tt.claim, func(t *testing.T) {
			l := parrotLab(t, labConfig{}, alg.Options{})
			l.announce("10.0.0.6", 9, 1) // under the bounds of before
			l.bound(tt.bounds)
			before := announcedBy(l)
			for flow := range tt.flows {
				l.announce("10.0.0.5", flow, 5)
			}
			if got := announcedBy(l) - before; got != tt.granted {
				t.Errorf("%d announcements were granted, want %d", got, tt.granted)
			}
		})
	}
}

func TestLinesOfALogAreBounded(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	l.bound(HelperBounds{LogPerSec: 4})
	l.announce("10.0.0.5", 0, 5)
	l.announce("10.0.0.6", 0, 5)
	l.announce("10.0.0.7", 0, 5)
	if got := len(l.e.Announcements()); got != 4 {
		t.Errorf("%d lines, want two of each of the first two clients", got)
	}
}

// TestReorderedBytesAreBounded: behind a hole there is room for what the State says.
func TestReorderedBytesAreBounded(t *testing.T) {
	for kb, dropped := range map[int]int{2: 3, 8: 0} {
		l := parrotLab(t, labConfig{}, alg.Options{})
		st := l.stateNow()
		st.Helpers.Stream.Late = kb << 10
		l.apply(st)
		l.talkTCP()
		l.ports["lan"].TakeFrames()
		for i := range 4 {
			l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(uint32(200+1000*i), 501), length(1000)))
		}
		l.ports["lan"].TakeFrames()
		l.ports["wan"].TakeFrames()
		l.wantDrops(slices.Repeat([]Reason{HelperCrowded}, dropped)...)
	}
}

// TestHostWithManyAddressesIsOneClient: a host may take every address of its /64, and
// has no more for that.
func TestHostWithManyAddressesIsOneClient(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	share := l.table.ExpectShare()
	for i := range 2 * share {
		l.announce(fmt.Sprintf("2001:db8:1::%x", 0x100+i), 0, 1)
	}
	if n := l.table.ExpectLen(); n != share {
		t.Errorf("%d flows are expected of one host, want %d", n, share)
	}
	for i := range 2 * clientPerSec {
		l.announce(fmt.Sprintf("2001:db8:1::%x", 0x1000+i), 0, 1)
	}
	s := l.e.HelperStats()
	if n := s.Announced() + s.Refused(); n != uint64(2*share+2*clientPerSec) || s.Each[0].Last.Client.String() != "2001:db8:1::" {
		t.Errorf("%d announcements, the last refused one by %v", n, s.Each[0].Last.Client)
	}
	l.announce("10.0.0.6", 0, 1)
	if n := l.table.ExpectLen(); n != share+1 {
		t.Error("another client finds no place")
	}
}

// phonesLab is a lab with the helpers for FTP and SIP at their ports.
func phonesLab(t *testing.T) *lab {
	t.Helper()
	set, err := alg.NewSet(ftp.Helper{}, sip.Helper{})
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[uint16]uint32{}
	for name, port := range map[string]uint16{"ftp": 21, "sip": 5060} {
		if numbers[port], err = set.Number(name, alg.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	return newLab(t, labConfig{
		table:  func(c *conntrack.Config) { c.HelperName = set.Name },
		engine: func(c *Config) { c.Helpers, c.Helper = set, func(t tuple.Tuple) uint32 { return numbers[t.DstPort] } },
	})
}

const ftpServer = "198.51.100.7:21"

// login is a control connection of FTP.
type login struct {
	*lab
	client, seen    string
	next, told, srv uint32 // the client's next number, what the server has of it, and the server's
}

// login opens one from a port that the gateway keeps.
func (l *lab) login(host string, port int) *login {
	l.Helper()
	c := &login{l, fmt.Sprintf("%s:%d", host, port), fmt.Sprintf("203.0.113.1:%d", port), 101, 101, 501}
	l.send("lan", tcp(c.client, ftpServer, seq(100, 0)))
	l.send("wan", tcp(ftpServer, c.seen, flags(packet.SYN|packet.ACK), seq(500, 101)))
	l.send("lan", tcp(c.client, ftpServer, flags(ackFlag), seq(101, 501)))
	l.ports["wan"].TakeFrames()
	c.reply("220 ready\r\n")
	return c
}

// reply has the server say a line, which the client acknowledges with what it says next.
func (c *login) reply(line string) {
	c.Helper()
	c.send("wan", tcp(ftpServer, c.seen, flags(ackFlag), seq(c.srv, c.told), body(line)))
	c.srv += uint32(len(line))
	c.ports["lan"].TakeFrames()
}

// port says PORT for a port of the client, and returns the arguments that arrived.
func (c *login) port(port int) string {
	c.Helper()
	host, _, _ := strings.Cut(c.client, ":")
	line := fmt.Sprintf("PORT %s,%d,%d\r\n", strings.ReplaceAll(host, ".", ","), port>>8, port&255)
	c.send("lan", tcp(c.client, ftpServer, flags(ackFlag), seq(c.next, c.srv), body(line)))
	c.next += uint32(len(line))
	f := c.take("wan")
	ip := ipOf(f, c.ports["wan"].Info().Link)
	at := headerLen(ip)
	got := string(ip[at+int(ip[at+12]>>4)*4:])
	c.told += uint32(len(got))
	c.reply("200 ok\r\n")
	return strings.TrimSuffix(strings.TrimPrefix(got, "PORT "), "\r\n")
}

// invite is a call with media at a port.
func invite(host string, call, port int) string {
	sdp := fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %[1]s\r\nt=0 0\r\nm=audio %d RTP/AVP 0\r\n", host, port)
	return fmt.Sprintf("INVITE sip:b@198.51.100.7 SIP/2.0\r\nVia: SIP/2.0/UDP %s:5060;branch=z9hG4bK%d\r\nFrom: <sip:a@example.org>;tag=%[2]d\r\n"+
		"To: <sip:b@example.org>\r\nCall-ID: %[2]d@%[1]s\r\nCSeq: 1 INVITE\r\nContact: <sip:a@%[1]s:5060>\r\nContent-Type: application/sdp\r\nContent-Length: %[3]d\r\n\r\n%[4]s",
		host, call, len(sdp), sdp)
}

// TestClientThatFloodsAnnouncementsStarvesNobody: for ten seconds a client announces by
// FTP and by SIP whatever it can, from many flows. Another one transfers a file and
// places a call in each of them. Counters and log name who floods.
func TestClientThatFloodsAnnouncementsStarvesNobody(t *testing.T) {
	const flooder, other = "10.0.0.5", "10.0.0.6"
	l := phonesLab(t)
	var flood []*login
	for i := range 20 {
		flood = append(flood, l.login(flooder, 20000+i))
	}
	mine := l.login(other, 30000)
	lines := map[string]int{}
	for second := range 10 {
		for i := range 400 {
			l.send("lan", udp(fmt.Sprintf("%s:%d", flooder, 40000+i%50), "198.51.100.7:5060", body(invite(flooder, 1000*second+i, 10000+2*i))))
			l.ports["wan"].TakeFrames()
			if i%2 == 0 {
				flood[i%20].port(2000 + 200*second + i)
			}
		}
		data := 6000 + second
		if got, want := mine.port(data), fmt.Sprintf("203,0,113,1,%d,%d", data>>8, data&255); got != want {
			t.Fatalf("second %d: the server was told %s, want %s", second, got, want)
		}
		l.send("wan", tcp("198.51.100.7:20", fmt.Sprintf("203.0.113.1:%d", data)))
		l.want("lan", fmt.Sprintf("tcp 198.51.100.7:20 > %s:%d S seq 0 ack 0 ttl 63 len 0", other, data))
		audio := 8000 + 2*second
		l.send("lan", udp(other+":5060", "198.51.100.7:5060", body(invite(other, second, audio))))
		if got := l.payloadOf("wan"); !strings.Contains(got, fmt.Sprintf("c=IN IP4 203.0.113.1\r\nt=0 0\r\nm=audio %d ", audio)) {
			t.Fatalf("second %d: the other phone was told\n%s", second, got)
		}
		l.send("wan", udp("198.51.100.7:9000", fmt.Sprintf("203.0.113.1:%d", audio)))
		l.want("lan", fmt.Sprintf("udp 198.51.100.7:9000 > %s:%d ttl 63 len 0", other, audio))
		for len(l.e.Announcements()) > 0 {
			a := <-l.e.Announcements()
			lines[fmt.Sprint(a.Helper, " ", a.Flow.Src, " ", a.Err)]++
		}
		l.advance(time.Second)
	}
	for _, c := range l.e.HelperStats().Each {
		if c.Refused == 0 || c.Last.Client.String() != flooder || c.Last.Err != alg.ErrLimit {
			t.Errorf("%s: %d refused, the last one %+v; want it to name %s", c.Name, c.Refused, c.Last, flooder)
		}
		if lines[c.Name+" "+flooder+" "+alg.ErrLimit.Error()] == 0 || lines[c.Name+" "+other+" <nil>"] < 10 || lines[c.Name+" "+other+" "+alg.ErrLimit.Error()] != 0 {
			t.Errorf("%s: the log has %v", c.Name, lines)
		}
	}
	if s := l.e.Stats(); s.Drops() != 0 {
		t.Errorf("dropped %v", s.Dropped)
	}
}

// TestEditsInFlightAreBounded: a segment that would need more replacements than the State
// has room for goes on as it is, and is counted.
func TestEditsInFlightAreBounded(t *testing.T) {
	const text = "a#b#c\n"
	for edits, want := range map[int]string{1: text, 2: "abc\n"} {
		l := parrotLab(t, labConfig{}, alg.Options{})
		b := l.stateNow().Helpers
		b.Stream.Edits = edits
		l.bound(b)
		l.talkTCP()
		l.send("wan", tcp(parrotTo, parrotOn, flags(packet.ACK), seq(501, 155)))
		l.ports["lan"].TakeFrames()
		l.send("lan", tcp(parrotIn, parrotTo, flags(packet.ACK), seq(106, 501), body(text)))
		l.want("wan", fmt.Sprintf("tcp %s > %s A seq 155 ack 501 ttl 63 len %d", parrotOn, parrotTo, len(want)))
		wantLate := uint64(0)
		if want == text {
			wantLate = 1
		}
		if late := l.e.HelperStats().Late; late != wantLate {
			t.Errorf("with room for %d edits %d were refused, want %d", edits, late, wantLate)
		}
	}
}
