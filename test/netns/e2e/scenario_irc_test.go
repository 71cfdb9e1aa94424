//go:build netns

package e2e

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/culvert/test/netns"
)

// ircThrough gives every session of IRC a helper.
var ircThrough = setup{
	config: `
[[filter]]
proto = "tcp"
dport = 6667
action = "mark"
set_mark = 67
helper = "irc"
`,
	objects: `
	ct helper irc {
		type "irc" protocol tcp
		l3proto ip
	}`,
	prerouting: `
		tcp dport 6667 ct helper set "irc"`,
	forward: `
		tcp dport 6667 ct state new ct mark set 67`,
}

// startIRC runs ngircd on the server.
func startIRC(t *testing.T, h *house, on netip.Addr) {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "ngircd.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, `[Global]
Name = irc.example.org
Info = a server
AdminInfo1 = nobody
Listen = %v
Ports = 6667
MotdPhrase = welcome
ServerUID = nobody
ServerGID = nogroup
[Limits]
MaxConnectionsIP = 0
MaxPenaltyTime = 0
[Options]
DNS = no
Ident = no
PAM = no
`, on), 0o644))
	p, err := h.server.Start("ngircd", "-n", "-f", conf)
	must(t, err)
	t.Cleanup(func() {
		must(t, p.Stop())
		if t.Failed() {
			t.Logf("ngircd:\n%s", p.Output())
		}
	})
	listens(t, "ngircd", h.server, at(on, 6667))
}

// chatter is a client of IRC.
type chatter struct {
	net.Conn
	name string
	in   *bufio.Reader
}

func joinIRC(t *testing.T, host *netns.Host, from, server netip.AddrPort, name string) *chatter {
	t.Helper()
	c := &chatter{Conn: dial(t, host, from, server), name: name}
	c.in = bufio.NewReader(c)
	c.say(t, "NICK "+name)
	c.say(t, "USER "+name+" 0 * :"+name)
	c.hear(t, " 376 ") // the end of the message of the day
	return c
}

func (c *chatter) say(t *testing.T, line string) {
	t.Helper()
	_, err := fmt.Fprintf(c, "%s\r\n", line)
	must(t, err)
}

// hear waits for a line with text in it, and answers what the server asks meanwhile.
func (c *chatter) hear(t *testing.T, text string) string {
	t.Helper()
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			t.Fatalf("%s hears nothing of %q: %v", c.name, text, err)
		}
		if token, ok := strings.CutPrefix(line, "PING "); ok {
			c.say(t, "PONG "+strings.TrimSpace(token))
		}
		if strings.Contains(line, text) {
			return strings.TrimRight(line, "\r\n")
		}
	}
}

// tell sends another one a DCC message, and expects what he hears.
func (c *chatter) tell(t *testing.T, other *chatter, message, heard string) {
	t.Helper()
	c.say(t, "PRIVMSG "+other.name+" :\x01DCC "+message+"\x01")
	line := other.hear(t, "PRIVMSG "+other.name)
	if _, got, _ := strings.Cut(line, "PRIVMSG "+other.name+" :"); got != "\x01DCC "+heard+"\x01" {
		t.Fatalf("%q arrived as %q, want %q", message, got, heard)
	}
}

// decimal is an IPv4 address as DCC writes it.
func decimal(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// TestIRCDirectConnections has clients on both sides of the gateway chat, and send a
// file, without their server.
func TestIRCDirectConnections(t *testing.T) {
	eachGateway(t, ircThrough, func(t *testing.T, h *house) {
		f := &ipv4
		server := at(f.server, 6667)
		startIRC(t, h, f.server)
		alice := joinIRC(t, h.first, at(f.first, 30667), server, "alice")
		bob := joinIRC(t, h.router, at(f.up, 0), server, "bob")
		carol := joinIRC(t, h.visitor, at(f.visitor, 0), server, "carol") // behind the gateway, too
		own, seen := decimal(f.first), decimal(f.outside)

		caller := f.up // as the inside sees him
		if h.gw.Kind() == netns.Kernel {
			caller = f.server // whom netfilter takes for everybody that takes up an offer
		}
		const line = "proto=6 src=0.0.0.0 dst=%v sport=0 dport=%d mask-src=0.0.0.0 mask-dst=255.255.255.255 sport=0 dport=65535 " +
			"master-src=%v master-dst=%v sport=30667 dport=6667 class=0 helper=irc"
		for i, kind := range []string{"CHAT chat", "SEND file"} {
			port := uint16(4000 + i)
			serveTCP(t, h.first, at(f.first, port), greet)
			size := ""
			if i > 0 {
				size = " 12345"
			}
			alice.tell(t, bob, fmt.Sprintf("%s %d %d%s", kind, own, port, size), fmt.Sprintf("%s %d %d%s", kind, seen, port, size))
			h.wantExpectation(t, fmt.Sprintf(line, f.outside, port, f.first, f.server))
			if c := talk(t, h.router, at(f.up, 31000+port), at(f.outside, port)); c.seen != at(caller, 31000+port) {
				t.Errorf("the inside sees %v, want %v", c.seen, caller)
			}
			h.wantFlow(t, fmt.Sprintf("tcp 6 431999 ESTABLISHED src=%v dst=%v sport=%d dport=%d src=%v dst=%v sport=%d dport=%d [ASSURED] mark=67 use=1",
				f.up, f.outside, 31000+port, port, f.first, caller, port, 31000+port))
		}
		t.Run("both behind the gateway", func(t *testing.T) {
			serveTCP(t, h.first, at(f.first, 4010), greet)
			alice.tell(t, carol, fmt.Sprintf("CHAT chat %d 4010", own), fmt.Sprintf("CHAT chat %d 4010", seen))
			talk(t, h.visitor, at(f.visitor, 0), at(f.outside, 4010))
		})
		t.Run("the outside offers", func(t *testing.T) {
			serveTCP(t, h.router, at(f.up, 4020), greet)
			offer := fmt.Sprintf("CHAT chat %d 4020", decimal(f.up))
			bob.tell(t, alice, offer, offer)
			talk(t, h.first, at(f.first, 0), at(f.up, 4020))
		})
		t.Run("an address of somebody else opens nothing", func(t *testing.T) {
			forged := fmt.Sprintf("CHAT chat %d 4030", decimal(f.second))
			alice.tell(t, bob, forged, forged)
			h.wantNoExpectation(t, "dport=4030")
		})
		if h.gw.Kind() == netns.Culvert {
			resumed(t, h, alice, bob)
		}
		// All that was edited has arrived, and was acknowledged.
		h.wantFlow(t, fmt.Sprintf("tcp 6 431999 ESTABLISHED src=%v dst=%v sport=30667 dport=6667 src=%v dst=%v sport=6667 dport=30667 [ASSURED] mark=67 helper=irc use=*",
			f.first, f.server, f.server, f.outside))
		if t.Failed() {
			h.logGateway(t)
		}
	})
}

// resumed sends what netfilter does not read: a name with a space, and a file that goes
// on at a port that is another one for each side, as two hosts inside offer the same.
func resumed(t *testing.T, h *house, alice, bob *chatter) {
	f := &ipv4
	alice.tell(t, bob, fmt.Sprintf(`SEND "my file" %d 4039 900`, decimal(f.first)), fmt.Sprintf(`SEND "my file" %d 4039 900`, decimal(f.outside)))
	dave := joinIRC(t, h.second, at(f.second, 0), at(f.server, 6667), "dave")
	dave.tell(t, bob, fmt.Sprintf("SEND a %d 4040 900", decimal(f.second)), fmt.Sprintf("SEND a %d 4040 900", decimal(f.outside)))
	alice.tell(t, bob, fmt.Sprintf("SEND b %d 4040 900", decimal(f.first)), fmt.Sprintf("SEND b %d 4041 900", decimal(f.outside)))
	bob.tell(t, alice, "RESUME b 4041 500", "RESUME b 4040 500")
	alice.tell(t, bob, "ACCEPT b 4040 500", "ACCEPT b 4041 500")
	serveTCP(t, h.first, at(f.first, 4040), greet)
	talk(t, h.router, at(f.up, 0), at(f.outside, 4041))
}

// wantNoExpectation fails if a line of conntrack -L expect contains text.
func (h *house) wantNoExpectation(t *testing.T, text string) {
	t.Helper()
	if out := h.expected(t); strings.Contains(out, text) {
		t.Errorf("a flow is expected:\n%s", out)
	}
}
