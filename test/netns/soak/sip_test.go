//go:build netns

package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"
)

// said finds what a message says: where media go to, and the lines an answer repeats.
var (
	saidAddress = regexp.MustCompile(`(?m)^c=IN IP4 (\S+?)\r?$`)
	saidPort    = regexp.MustCompile(`(?m)^m=audio (\d+) `)
	saidAgain   = regexp.MustCompile(`(?m)^(?:Via|From|To|Call-ID|CSeq): .*$`)
)

// serveSIP answers every request with 200. To the media that an INVITE announces it
// sends a datagram, which only a helper lets in.
func (s *lab) serveSIP(t *testing.T) {
	t.Helper()
	media, err := s.server.ListenPacket("udp", netip.AddrPortFrom(servers[0], 40000).String())
	must(t, err)
	t.Cleanup(func() { media.Close() })
	s.serveUDP(t, netip.AddrPortFrom(servers[0], 5060), func(b []byte) []byte {
		request, body := string(b), ""
		if strings.HasPrefix(request, "INVITE ") {
			address, port := saidAddress.FindStringSubmatch(request), saidPort.FindStringSubmatch(request)
			if address == nil || port == nil {
				return nil
			}
			to, err := netip.ParseAddrPort(address[1] + ":" + port[1])
			if err != nil {
				return nil
			}
			s.seen(to.Addr())
			_, _ = media.WriteTo([]byte("ring"), net.UDPAddrFromAddrPort(to)) // it calls again
			body = sdp(netip.AddrPortFrom(servers[0], 40000))
		}
		lines := saidAgain.FindAllString(strings.ReplaceAll(request, "\r", ""), -1)
		return []byte("SIP/2.0 200 OK\r\n" + strings.Join(lines, "\r\n") +
			fmt.Sprintf("\r\nContact: <sip:bob@%s>\r\n", servers[0]) + withBody(body))
	})
}

func sdp(media netip.AddrPort) string {
	return fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 %[1]s\r\ns=-\r\nc=IN IP4 %[1]s\r\nt=0 0\r\nm=audio %[2]d RTP/AVP 0\r\n", media.Addr(), media.Port())
}

func withBody(body string) string {
	if body == "" {
		return "Content-Length: 0\r\n\r\n"
	}
	return fmt.Sprintf("Content-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// call calls the server, waits for its media and its answer, and hangs up.
func (s *lab) call(ctx context.Context) error {
	media, err := s.first.ListenPacket("udp", inside[0]+":0")
	if err != nil {
		return err
	}
	defer media.Close()
	signals, err := s.first.Dial(ctx, "udp", netip.AddrPortFrom(servers[0], 5060).String())
	if err != nil {
		return err
	}
	defer signals.Close()
	own, id := signals.LocalAddr().String(), rand.Uint64()
	request := func(method string, sequence int, body string) []byte {
		return []byte(fmt.Sprintf("%[1]s sip:bob@%[2]s SIP/2.0\r\nVia: SIP/2.0/UDP %[3]s;branch=z9hG4bK%[4]d%[5]d\r\n"+
			"From: <sip:alice@%[3]s>;tag=%[4]d\r\nTo: <sip:bob@%[2]s>\r\nCall-ID: %[4]d\r\nCSeq: %[5]d %[1]s\r\n"+
			"Max-Forwards: 70\r\nContact: <sip:alice@%[3]s>\r\n", method, servers[0], own, id, sequence) + withBody(body))
	}
	invite := request("INVITE", 1, sdp(media.LocalAddr().(*net.UDPAddr).AddrPort()))
	b := make([]byte, 2048)
	for try := range tries {
		if try == tries-1 && err != nil {
			return err
		}
		if _, err = signals.Write(invite); err != nil {
			continue
		}
		_ = media.SetReadDeadline(time.Now().Add(tryFor))
		_ = signals.SetReadDeadline(time.Now().Add(tryFor))
		if _, _, err = media.ReadFrom(b); err != nil {
			err = fmt.Errorf("media of the call: %w", err)
			continue
		}
		if _, err = signals.Read(b); err == nil {
			break
		}
	}
	if _, err := signals.Write(request("ACK", 1, "")); err != nil {
		return err
	}
	if _, err := signals.Write(request("BYE", 2, "")); err != nil {
		return err
	}
	for want := fmt.Sprintf("CSeq: %d BYE", 2); ; {
		_ = signals.SetReadDeadline(time.Now().Add(tryFor))
		n, err := signals.Read(b)
		if err != nil {
			return fmt.Errorf("end of the call: %w", err)
		}
		if strings.Contains(string(b[:n]), want) {
			return nil
		}
	}
}
