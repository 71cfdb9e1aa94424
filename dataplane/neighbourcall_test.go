package dataplane

import (
	"strings"
	"testing"
)

const proxy = "198.51.100.7:5060"

// forwarded is an INVITE that the proxy sends on, with media of seen at a port.
func forwarded(seen string, call, port int) string {
	text := invite(seen, call, port)
	return strings.Replace(text, "INVITE sip:b@198.51.100.7 ", "INVITE sip:b@203.0.113.1:5061 ", 1)
}

// mediaOf returns where a message says that media go.
func mediaOf(t *testing.T, text string) string {
	t.Helper()
	var host, port string
	for _, line := range strings.Split(text, "\r\n") {
		if rest, ok := strings.CutPrefix(line, "c=IN IP4 "); ok {
			host = rest
		}
		if rest, ok := strings.CutPrefix(line, "m=audio "); ok {
			port, _, _ = strings.Cut(rest, " ")
		}
	}
	if host == "" || port == "" {
		t.Fatalf("no media in\n%s", text)
	}
	return host + ":" + port
}

// TestNeighboursCallEachOtherByAProxyOutside: the proxy names one phone to the other by
// its external socket, and each is told the inside one: while it is expected that the
// proxy sends there, and also once it has, as one that plays music does.
func TestNeighboursCallEachOtherByAProxyOutside(t *testing.T) {
	const a, b = "10.0.0.5", "10.0.0.6"
	for _, tt := range []struct {
		claim string
		met   int // packets that the proxy has sent to the first phone's media before
	}{
		{"at once", 0},
		{"after a packet of early media", 1},
		{"after several", 3},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			l := phonesLab(t)
			l.send("lan", udp(b+":5061", proxy, body(invite(b, 9, 9000)))) // its flow with the proxy
			l.payloadOf("wan")
			l.send("lan", udp(a+":5060", proxy, body(invite(a, 1, 8000))))
			if got := mediaOf(t, l.payloadOf("wan")); got != "203.0.113.1:8000" {
				t.Fatalf("the proxy was told %s", got)
			}
			for range tt.met {
				l.send("wan", udp("198.51.100.7:30000", "203.0.113.1:8000"))
				l.want("lan", "udp 198.51.100.7:30000 > 10.0.0.5:8000 ttl 63 len 0")
			}
			l.send("wan", udp(proxy, "203.0.113.1:5061", body(forwarded("203.0.113.1", 1, 8000))))
			if got, want := mediaOf(t, l.payloadOf("lan")), a+":8000"; got != want {
				t.Errorf("the second phone was told %s, want %s", got, want)
			}
			// The call is changed: the second phone's own media, which the proxy has reached.
			for range tt.met {
				l.send("wan", udp("198.51.100.7:30002", "203.0.113.1:9000"))
				l.want("lan", "udp 198.51.100.7:30002 > 10.0.0.6:9000 ttl 63 len 0")
			}
			l.send("wan", udp(proxy, "203.0.113.1:5060", body(forwarded("203.0.113.1", 9, 9000))))
			if got, want := mediaOf(t, l.payloadOf("lan")), b+":9000"; got != want {
				t.Errorf("the first phone was told %s, want %s", got, want)
			}
		})
	}
}
