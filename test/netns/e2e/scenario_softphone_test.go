//go:build netns

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/culvert/test/netns"
)

// Ports that softphones take for media.
const (
	softphoneMedia    = 42000
	softphoneMediaEnd = 42020
)

// softphone starts baresip without a sound card: it plays a tone to its peer, and hears
// what comes. It answers calls by itself, makes the one of dial, and ends after some
// seconds, with all of its calls.
func softphone(t *testing.T, host *netns.Host, f *family, on netip.Addr, name string, seconds int, dial string) *netns.Process {
	t.Helper()
	dir := t.TempDir()
	for file, text := range map[string]string{
		"config": fmt.Sprintf(`sip_listen %v
rtp_ports %d-%d
module_path /usr/lib/baresip/modules
module g711.so
module ausine.so
module aubridge.so
module_tmp account.so
module_app menu.so
audio_source ausine,440
ausrc_srate 48000
ausrc_channels 2
audio_player aubridge,nowhere
audio_alert aubridge,alert
`, netip.AddrPortFrom(on, 5060), softphoneMedia, softphoneMediaEnd),
		"accounts": fmt.Sprintf("<sip:%s@%s>;regint=0\n", name, inURI(on)),
		"contacts": "",
	} {
		must(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
	}
	version := "-4"
	if !f.is4() {
		version = "-6"
	}
	command := "/answermode auto"
	if dial != "" {
		command = "/dial " + dial
	}
	args := []string{"baresip", version, "-f", dir, "-t", fmt.Sprint(seconds), "-s", "-e", command}
	p, err := host.Start(args...)
	must(t, err)
	until(t, name+" is ready", func() bool { return strings.Contains(p.Output(), "baresip is ready") })
	return p
}

// TestSoftphones has a softphone inside call one outside: both hear each other until
// the caller ends.
func TestSoftphones(t *testing.T) {
	eachGateway(t, sipThrough, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) { softphones(t, h, f) })
	})
}

func softphones(t *testing.T, h *house, f *family) {
	watch := watchMedia(t, h.first, h.server)
	called := softphone(t, h.server, f, f.server, "bob", 20, "")
	caller := softphone(t, h.first, f, f.first, "alice", 2, fmt.Sprintf("sip:bob@%s", inURI(f.server)))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the caller:\n%s\nthe called one:\n%s", caller.Output(), called.Output())
		}
	})
	media := func(c *netns.Capture, from, to netip.Addr) int {
		return c.Count(func(fr netns.Frame) bool {
			u, net := fr.UDP(), fr.NetworkLayer()
			return u != nil && !fr.Outgoing && softphoneMedia <= u.DstPort && u.DstPort <= softphoneMediaEnd &&
				net.NetworkFlow().Src().String() == from.String() && net.NetworkFlow().Dst().String() == to.String()
		})
	}
	const half = 25 // a second, of packets of 20 ms
	until(t, "the called one hears half a second", func() bool { return media(watch.called, f.outside, f.server) > half })
	until(t, "the caller hears half a second", func() bool { return media(watch.caller, f.server, f.first) > half })
	until(t, "the caller ends", func() bool {
		select {
		case <-caller.Done():
			return true
		default:
			return false
		}
	})
	until(t, "the end of the call ends what it announced", func() bool { return len(h.expectations(t, f, "class=1")) == 0 })
	must(t, called.Stop())
	heard := heardBy(called.Output())
	wantNothingOf(t, heard, f.first)
	wantLines(t, heard, fmt.Sprintf("c=IN %s %v", sipVersion(f.outside), f.outside))
}

// heardBy keeps the lines of baresip's trace that are SIP.
func heardBy(trace string) string {
	var b strings.Builder
	for line := range strings.Lines(trace) {
		if strings.Contains(line, "SIP/2.0") || strings.HasPrefix(line, "Contact:") || strings.HasPrefix(line, "c=") || strings.HasPrefix(line, "o=") {
			b.WriteString(line)
		}
	}
	return b.String()
}
