package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"example.com/culvert/alg/registry"
	"example.com/culvert/conntrack/tuple"
)

// said is a message of a conversation: "> " by the client 10.0.0.5, "< " by the server.
type said struct {
	who  byte
	text string
}

// conversations are what a capture for each helper has.
var conversations = map[string][]said{
	"ftp": {
		{'<', "220 ready\r\n"},
		{'>', "USER x\r\nPORT 10,0,"}, {'>', "0,5,156,65\r\n"},
		{'<', "331 who\r\n200 fine\r\n"},
		{'>', "PORT 10,0,0,9,156,66\r\n"},
		{'<', "200 fine\r\n"},
		{'>', "GET / HTTP/1.1\r\n"},
	},
	"irc": {
		{'>', "NICK a\r\nUSER a 0 * :a\r\n"},
		{'>', "PRIVMSG b :\x01DCC SEND file 167772165 40001 99\x01\r\n"},
	},
	"pptp": {
		{'>', pptpMessage(1, 156, 0x100)}, {'<', pptpMessage(2, 156, 0x100, 0x100)},
		{'>', pptpMessage(7, 168, 5)}, {'<', pptpMessage(8, 32, 9, 40000, 0x100)},
		{'>', pptpMessage(12, 16, 5)},
	},
	"sip": {
		{'>', sipMessage("INVITE sip:bob@198.51.100.7 SIP/2.0", "Via: SIP/2.0/UDP 10.0.0.5:40000;branch=z9hG4bK1",
			"From: <sip:alice@10.0.0.5>;tag=1", "To: <sip:bob@198.51.100.7>", "Call-ID: 1", "CSeq: 1 INVITE", "Contact: <sip:alice@10.0.0.5:40000>")},
	},
	"snmp_trap": {
		{'>', "\x30\x23\x02\x01\x00\x04\x06public\xa4\x16\x06\x03\x2b\x06\x01\x40\x04\x0a\x00\x00\x05\x02\x01\x00\x02\x01\x00\x43\x01\x00\x30\x00"},
	},
	"snmp": {
		{'>', "\x30\x1a\x02\x01\x01\x04\x06public\xa0\x0d\x02\x01\x01\x02\x01\x00\x02\x01\x00\x30\x02\x30\x00"},
	},
	"netbios-ns": {
		{'>', "\x12\x34\x01\x10\x00\x01\x00\x00\x00\x00\x00\x00\x20CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\x00\x00\x21\x00\x01"},
	},
	"tftp": {
		{'>', "\x00\x01file\x00octet\x00"},
	},
}

func pptpMessage(kind uint16, length int, words ...uint16) string {
	b := make([]byte, length)
	for i, w := range append([]uint16{uint16(length), 1, 0x1a2b, 0x3c4d, kind, 0}, words...) {
		binary.BigEndian.PutUint16(b[2*i:], w)
	}
	return string(b)
}

func sipMessage(lines ...string) string {
	const body = "v=0\r\no=- 1 1 IN IP4 10.0.0.5\r\ns=-\r\nc=IN IP4 10.0.0.5\r\nt=0 0\r\nm=audio 40010 RTP/AVP 0\r\n"
	return strings.Join(lines, "\r\n") + fmt.Sprintf("\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

var server = net.IP{198, 51, 100, 7}

// frames are the packets of a conversation, one a millisecond, with its TCP handshake.
func frames(t *testing.T, proto uint8, server net.IP, port uint16, says []said) (all [][]byte) {
	t.Helper()
	client := net.IP{10, 0, 0, 5}
	next := map[byte]uint32{'>': 100, '<': 500}
	add := func(who byte, text string, syn bool) {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocol(proto), SrcIP: client, DstIP: server}
		from, to, other := uint16(40000), port, byte('<')
		if who == '<' {
			ip.SrcIP, ip.DstIP, from, to, other = server, client, to, from, '>'
		}
		var l4 gopacket.SerializableLayer
		if proto == tuple.UDP {
			u := &layers.UDP{SrcPort: layers.UDPPort(from), DstPort: layers.UDPPort(to)}
			must(t, u.SetNetworkLayerForChecksum(ip))
			l4 = u
		} else {
			h := &layers.TCP{SrcPort: layers.TCPPort(from), DstPort: layers.TCPPort(to), Seq: next[who], Ack: next[other], SYN: syn, ACK: !syn || who == '<', Window: 65535}
			must(t, h.SetNetworkLayerForChecksum(ip))
			l4 = h
			if syn {
				next[who]++
			}
			next[who] += uint32(len(text))
		}
		buf := gopacket.NewSerializeBuffer()
		must(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			&layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4},
			ip, l4, gopacket.Payload(text)))
		all = append(all, buf.Bytes())
	}
	if proto == tuple.TCP {
		add('>', "", true)
		add('<', "", true)
		add('>', "", false)
	}
	for _, s := range says {
		add(s.who, s.text, false)
	}
	return all
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// captureFile is a file with frames, of one of the two formats.
func captureFile(t *testing.T, format string, frames [][]byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test."+format)
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	write, done := writer(t, f, format)
	for i, b := range frames {
		at := time.Date(2026, 1, 2, 3, 4, 5, i*int(time.Millisecond), time.UTC)
		must(t, write(gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(b), Length: len(b)}, b))
	}
	must(t, done())
	return path
}

func writer(t *testing.T, f io.Writer, format string) (write func(gopacket.CaptureInfo, []byte) error, done func() error) {
	t.Helper()
	if format == "pcapng" {
		w, err := pcapgo.NewNgWriter(f, layers.LinkTypeEthernet)
		must(t, err)
		return w.WritePacket, w.Flush
	}
	w := pcapgo.NewWriterNanos(f)
	must(t, w.WriteFileHeader(65535, layers.LinkTypeEthernet))
	return w.WritePacket, func() error { return nil }
}

// TestReplay runs every helper over a capture of its own, of either format and printed
// either way.
func TestReplay(t *testing.T) {
	for _, h := range registry.Helpers {
		sp := h.Spec()
		says := conversations[sp.Name]
		if says == nil {
			t.Errorf("there is no capture for helper %s", sp.Name)
			continue
		}
		args := []string{"alg", "replay", "--helper", sp.Name}
		to := server
		if sp.Broadcasts {
			to, args = net.IP{10, 0, 0, 255}, append(args, "--subnet", "10.0.0.0/24")
		}
		packets := frames(t, sp.Protos[0], to, sp.Port, says)
		for format, form := range map[string]string{"pcap": "text", "pcapng": "json"} {
			stdout, stderr, code := culvert(t, append(args[:len(args):len(args)], "-o", form, captureFile(t, format, packets))...)
			if code != exitDone || stderr != "" {
				t.Errorf("%s: status %d, stderr %q", sp.Name, code, stderr)
			}
			golden(t, filepath.Join("..", "replay", sp.Name+"."+form), stdout)
		}
	}
}

func TestReplayWithoutTranslationReplacesNothing(t *testing.T) {
	path := captureFile(t, "pcap", frames(t, tuple.TCP, server, 2121, conversations["ftp"]))
	stdout, _, _ := culvert(t, "alg", "replay", path, "--helper", "ftp", "--port", "2121", "--external", "none", "--helper-options", "foreign")
	if strings.Contains(stdout, "\n+") || !strings.Contains(stdout, "> data tcp 198.51.100.7:* > 10.0.0.9:40002") {
		t.Errorf("it says\n%s", stdout)
	}
}

func TestReplayRefusals(t *testing.T) {
	path := captureFile(t, "pcap", nil)
	for _, tt := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"--helper", "ftp"}, "name one capture file", exitMisused},
		{[]string{path}, "--helper NAME is missing: there are ", exitMisused},
		{[]string{path, "--helper", "h323"}, "use ", exitMisused},
		{[]string{path, "--helper", "ftp", "--external", "here"}, `--external "here": want an address, or none`, exitMisused},
		{[]string{path, "--helper", "ftp", "--helper-options", "all"}, `--helper-options "all": there are `, exitMisused},
		{[]string{path + "x", "--helper", "ftp"}, "no such file", exitFailed},
	} {
		_, stderr, code := culvert(t, append([]string{"alg", "replay"}, tt.args...)...)
		if code != tt.code || !strings.Contains(stderr, tt.want) {
			t.Errorf("%v: status %d, %q, want %d and %q", tt.args, code, stderr, tt.code, tt.want)
		}
	}
}
