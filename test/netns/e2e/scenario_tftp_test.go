//go:build netns

package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// tftpThrough gives every TFTP request a helper, and forwards port 69 to the first
// host.
var tftpThrough = setup{
	config: `
[[dnat]]
in_area = "wan"
dst = "gateway"
family = "ipv4"
proto = "udp"
dport = 69
action = "dnat"
to = "10.1.0.11"

[[dnat]]
in_area = "wan"
dst = "gateway"
family = "ipv6"
proto = "udp"
dport = 69
action = "dnat"
to = "fd00:1::11"

[[filter]]
proto = "udp"
dport = 69
action = "mark"
set_mark = 69
helper = "tftp"
`,
	objects: `
	ct helper tftp {
		type "tftp" protocol udp
	}`,
	prerouting: `
		udp dport 69 ct helper set "tftp"
		iifname "wan0" ip daddr 203.0.113.1 udp dport 69 dnat ip to 10.1.0.11
		iifname "wan0" ip6 daddr 2001:db8:a::1 udp dport 69 dnat ip6 to fd00:1::11`,
	forward: `
		udp dport 69 ct state new ct mark set 69`,
}

// TestTFTP fetches and stores a file, through masquerade and through a forwarded port.
func TestTFTP(t *testing.T) {
	eachGateway(t, tftpThrough, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			t.Run("masquerade", func(t *testing.T) {
				tftpTransfers(t, h, f, ftpSite{client: h.first, server: h.server, on: f.server, to: f.server})
			})
			t.Run("forwarded port", func(t *testing.T) {
				tftpTransfers(t, h, f, ftpSite{client: h.server, server: h.first, on: f.first, to: f.outside})
			})
		})
	})
}

// tftpTransfers moves a file both ways between tftpd-hpa and the client of tftp-hpa.
func tftpTransfers(t *testing.T, h *house, f *family, site ftpSite) {
	root := t.TempDir()
	letIn(t, root) // the user that the daemon becomes
	must(t, os.Chmod(root, 0o777))
	text := make([]byte, 100_000)
	_, _ = rand.Read(text)
	must(t, os.WriteFile(filepath.Join(root, "file"), text, 0o644))
	mine := filepath.Join(t.TempDir(), "mine")
	must(t, os.WriteFile(mine, text, 0o644))

	option := "-4"
	if !f.is4() {
		option = "-6"
	}
	daemon, err := site.server.Start("in.tftpd", "-L", option, "-a", at(site.on, 69).String(), "-c", "-u", "nobody", "-s", root)
	must(t, err)
	defer func() { must(t, daemon.Stop()) }()
	until(t, "the daemon listens", func() bool { // not by taking its port for a moment, which ends it
		out, err := site.server.Exec(t.Context(), "ss", "-Hlun", "sport = :69")
		return err == nil && out != ""
	})
	for _, way := range []struct{ verb, from, to, came string }{
		{"get", "file", mine + ".new", mine + ".new"},
		{"put", mine, "new", filepath.Join(root, "new")},
	} {
		t.Run(way.verb, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			out, err := site.client.Exec(ctx, "tftp", option, "-m", "octet", site.to.String(), "-c", way.verb, way.from, way.to)
			must(t, err)
			wantFile(t, way.came, text)
			if t.Failed() {
				t.Logf("tftp: %s", out)
			}
		})
	}
	if t.Failed() {
		t.Log(daemon.Output())
		h.logGateway(t)
	}
}

// TestTFTPExpectationsAreListed compares the lines of an expectation and of its flow
// with those of the kernel.
func TestTFTPExpectationsAreListed(t *testing.T) {
	eachGateway(t, tftpThrough, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			mask := allOnes(f.first)
			server, client := bindUDP(t, h.server, at(f.server, 69)), bindUDP(t, h.first, at(f.first, 30069))
			_, err := client.WriteToUDPAddrPort([]byte("\x00\x01file\x00octet\x00"), at(f.server, 69))
			must(t, err)
			if got := server.receive(t); got != "\x00\x01file\x00octet\x00" {
				t.Errorf("the server got %q", got)
			}
			h.wantExpectation(t, fmt.Sprintf("proto=17 src=%v dst=%v sport=0 dport=30069 mask-src=%v mask-dst=%v sport=0 dport=65535 "+
				"master-src=%v master-dst=%v sport=30069 dport=69 class=0 helper=tftp", f.server, f.outside, mask, mask, f.first, f.server))
			transfer := bindUDP(t, h.server, at(f.server, 50069))
			_, err = transfer.WriteToUDPAddrPort([]byte("data"), at(f.outside, 30069))
			must(t, err)
			if got := client.receive(t); got != "data" {
				t.Errorf("the client got %q", got)
			}
			h.wantFlow(t, fmt.Sprintf("udp 17 30 src=%v dst=%v sport=50069 dport=30069 [UNREPLIED] src=%v dst=%v sport=30069 dport=50069 mark=69 use=1",
				f.server, f.outside, f.first, f.server))
			_, err = client.WriteToUDPAddrPort([]byte("ack"), at(f.server, 50069))
			must(t, err)
			if got := transfer.receive(t); got != "ack" {
				t.Errorf("the server got %q", got)
			}
		})
	})
}

// receive waits for a datagram.
func (d datagrams) receive(t *testing.T) string {
	t.Helper()
	must(t, d.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 1<<16)
	n, _, err := d.ReadFromUDPAddrPort(buf)
	must(t, err)
	return string(buf[:n])
}
