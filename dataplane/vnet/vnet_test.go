package vnet

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/culvert/dataplane"
)

func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) { RunScript(t, f) })
	}
}

func home(t testing.TB) *Net {
	t.Helper()
	text, err := os.ReadFile("testdata/home.toml")
	if err != nil {
		t.Fatal(err)
	}
	return New(t, string(text))
}

// serve echoes what a connection sends, until its end.
func serve(t *testing.T, h *Host, addr string) {
	t.Helper()
	l, err := h.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
}

// talk sends data and wants it back.
func talk(t *testing.T, h *Host, addr string, data []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := h.Dial(ctx, "tcp", addr)
	if err != nil {
		t.Fatalf("dial %s: %v", addr, err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	go c.Write(data)
	got := make([]byte, len(data))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%s: echo of %d bytes differs (%v)", addr, len(data), err)
	}
}

func TestConnectionsThroughTheGateway(t *testing.T) {
	n := home(t)
	client := n.Host("lan", "10.0.0.5/24", "2001:db8:1::5/64")
	inside := n.Host("lan", "10.0.0.9/24")
	server := n.Host("wan", "203.0.113.9/24", "2001:db8:2::9/64")
	n.Start()
	serve(t, server, "203.0.113.9:80")
	serve(t, server, "[2001:db8:2::9]:80")
	serve(t, inside, "10.0.0.9:80")

	data := bytes.Repeat([]byte("culvert "), 1<<15)
	talk(t, client, "203.0.113.9:80", data)
	talk(t, client, "[2001:db8:2::9]:80", data)
	talk(t, server, "203.0.113.1:8080", data)
}

func TestInProcessServiceIsReachedFromInside(t *testing.T) {
	n := home(t)
	client := n.Host("lan", "10.0.0.5/24", "2001:db8:1::5/64")
	l, err := n.Stack.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	n.Start()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	data := bytes.Repeat([]byte("culvert "), 1<<15)
	talk(t, client, "10.0.0.1:80", data)
	talk(t, client, "[2001:db8:1::1]:80", data)
}

func TestHostsOfOneLinkTalkDirectly(t *testing.T) {
	n := home(t)
	a := n.Host("lan", "10.0.0.5/24")
	b := n.Host("lan", "10.0.0.9/24")
	n.Start()
	serve(t, b, "10.0.0.9:80")
	talk(t, a, "10.0.0.9:80", []byte("hello"))
	st := n.Engine.Stats()
	if st.Forwarded != 0 {
		t.Errorf("gateway forwarded %d packets", st.Forwarded)
	}
}

func TestDatagramsThroughTheGateway(t *testing.T) {
	n := home(t)
	client := n.Host("lan", "10.0.0.5/24")
	server := n.Host("wan", "203.0.113.9/24")
	n.Start()
	s, err := server.ListenPacket("udp", "203.0.113.9:53")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := client.Dial(context.Background(), "udp", "203.0.113.9:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	deadline := time.Now().Add(10 * time.Second)
	c.SetDeadline(deadline)
	s.SetDeadline(deadline)
	buf := make([]byte, 100)
	c.Write([]byte("question"))
	k, from, err := s.ReadFrom(buf)
	if err != nil || string(buf[:k]) != "question" {
		t.Fatalf("server read %q, %v", buf[:k], err)
	}
	if host := netip.MustParseAddrPort(from.String()).Addr(); host != netip.MustParseAddr("203.0.113.1") {
		t.Errorf("server sees %v, want the gateway's address", host)
	}
	s.WriteTo([]byte("answer"), from)
	if k, err = c.Read(buf); err != nil || string(buf[:k]) != "answer" {
		t.Fatalf("client read %q, %v", buf[:k], err)
	}
}

func TestReloadChangesWhatPasses(t *testing.T) {
	text, err := os.ReadFile("testdata/home.toml")
	if err != nil {
		t.Fatal(err)
	}
	n := home(t)
	syn := func(port string) []byte {
		d, err := parseOne(strings.Fields("tcp 10.0.0.5:" + port + " > 198.51.100.7:443 S"))
		if err != nil {
			t.Fatal(err)
		}
		ip, err := d.build()
		if err != nil {
			t.Fatal(err)
		}
		return ip
	}
	n.Link("lan").Send(syn("1000"))
	if got := n.Link("wan").Take(); len(got) != 1 {
		t.Fatalf("%d packets left, want 1", len(got))
	}
	n.Reload(string(text) + "\n[[filter]]\nin_area = \"lan\"\nproto = \"tcp\"\ndport = 443\naction = \"drop\"\n")
	n.Link("lan").Send(syn("1001"))
	if got := n.Link("wan").Take(); len(got) != 0 {
		t.Errorf("%d packets left after the reload, want none", len(got))
	}
	st := n.Engine.Stats()
	if st.Dropped[dataplane.RuleDenied] != 1 {
		t.Errorf("dropped by rule: %d, want 1", st.Dropped[dataplane.RuleDenied])
	}
}

func TestWordsAndPacketsAgree(t *testing.T) {
	for _, line := range []string{
		"tcp 10.0.0.5:40000 > 203.0.113.1:443 S seq 1 ack 0 win 1000 mss 1460 len 0 ttl 64",
		"tcp 10.0.0.5:40000 > 203.0.113.1:443 PA seq 1 ack 2 win 1000 len 7 data \"a > b }\" ttl 3",
		"udp [2001:db8::5]:4000 > [2001:db8:1::9]:53 len 8 data \"question\" ttl 64",
		"icmp 10.0.0.5 > 203.0.113.1 echo seq 1 len 0 ttl 64 id 7",
		"icmp 2001:db8::5 > 2001:db8::1 reply seq 1 len 0 ttl 64 id 7",
		"proto 47 10.0.0.5 > 203.0.113.1 ttl 64",
		"icmp 203.0.113.9 > 10.0.0.5 error 3/4 ttl 64 mtu 1400 { udp 10.0.0.5:4000 > 203.0.113.9:53 len 0 ttl 64 }",
	} {
		words, err := tokens(line)
		if err != nil {
			t.Fatal(err)
		}
		d, err := parseOne(words)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		ip, err := d.build()
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		got, err := describe(ip)
		if err != nil || got.String() != line {
			t.Errorf("described as %v (%v)\nwant         %s", got, err, line)
		}
		ip[len(ip)-1] ^= 1
		if d.proto != "47" {
			if _, err := describe(ip); err == nil {
				t.Errorf("%s: damage is not noticed", line)
			}
		}
	}
}

func TestBadLinesAreRefused(t *testing.T) {
	for _, line := range []string{
		"tcp 10.0.0.5 > 203.0.113.1:443 S",
		"tcp 10.0.0.5:1 203.0.113.1:443 S",
		"tcp 10.0.0.5:1 > 203.0.113.1:443 what",
		"icmp 10.0.0.5 > 203.0.113.1 error 3/1 { udp 10.0.0.5:1 > 203.0.113.1:2",
		"udp 10.0.0.5:1 > 203.0.113.1:2 data \"open",
	} {
		words, err := tokens(line)
		if err == nil {
			_, err = parseOne(words)
		}
		if err == nil {
			t.Errorf("%s: accepted", line)
		}
	}
}
