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

// trapsThrough gives every trap a helper.
var trapsThrough = setup{
	config: `
[[filter]]
proto = "udp"
dport = 162
action = "helper"
helper = "snmp_trap"
`,
	objects: `
	ct helper trap {
		type "snmp_trap" protocol udp
		l3proto ip
	}`,
	prerouting: `
		udp dport 162 ct helper set "trap"`,
}

// ber is an element of BER (ITU-T X.690) with a short length.
func ber(tag byte, contents ...string) string {
	c := strings.Join(contents, "")
	return string([]byte{tag, byte(len(c))}) + c
}

const variables = "\x30\x0d\x06\x05\x2b\x06\x01\x02\x01\x04\x04good"

// trapOf is a trap of SNMPv1 (RFC 1157 section 4.1.6) whose agent has an address.
func trapOf(agent netip.Addr) string {
	pdu := ber(0x06, "\x2b\x06\x01\x04\x01\x01") + ber(0x40, string(agent.AsSlice())) + ber(0x02, "\x06") + ber(0x02, "\x01") + ber(0x43, "\x05") +
		ber(0x30, variables)
	return ber(0x30, ber(0x02, "\x00"), ber(0x04, "public"), ber(0xa4, pdu))
}

// trapV2 is a trap of SNMPv2 (RFC 3416 section 3), which has no such address.
var trapV2 = ber(0x30, ber(0x02, "\x01"), ber(0x04, "public"), ber(0xa7, ber(0x02, "\x07"), ber(0x02, "\x00"), ber(0x02, "\x00"), ber(0x30, variables)))

// TestTrapsNameTheAddressThatTheManagerSees sends traps of an agent inside. Netfilter
// drops those of SNMPv1, which its grammar does not have any more.
func TestTrapsNameTheAddressThatTheManagerSees(t *testing.T) {
	eachGateway(t, trapsThrough, func(t *testing.T, h *house) {
		f := &ipv4
		manager, agent := bindUDP(t, h.server, at(f.server, 162)), bindUDP(t, h.first, at(f.first, 30162))
		seen := [...]string{trapOf(f.outside), trapOf(f.second), trapV2}
		for i, trap := range []string{trapOf(f.first), trapOf(f.second), trapV2} { // the second one tells of another agent
			_, err := agent.WriteToUDPAddrPort([]byte(trap), at(f.server, 162))
			must(t, err)
			if h.gw.Kind() == netns.Kernel && trap != trapV2 {
				continue // lost: see above
			}
			if got := manager.receive(t); got != seen[i] {
				t.Errorf("the manager got\n%q, want\n%q", got, seen[i])
			}
		}
	})
}

// TestTrapsOfNetSNMP has snmptrap tell snmptrapd of an agent inside: by SNMPv1 under the
// address that the manager sees, by SNMPv2 as before.
func TestTrapsOfNetSNMP(t *testing.T) {
	eachGateway(t, trapsThrough, func(t *testing.T, h *house) {
		f := &ipv4
		conf := filepath.Join(t.TempDir(), "snmptrapd.conf")
		must(t, os.WriteFile(conf, []byte("disableAuthorization yes\n"), 0o600))
		manager := at(f.server, 162).String()
		daemon, err := h.server.Start("snmptrapd", "-f", "-Lo", "-C", "-c", conf, "-m", "", "-On", "-F", "of %a, by %b: %v\n", "udp:"+manager)
		must(t, err)
		until(t, "snmptrapd listens", func() bool { return strings.Contains(daemon.Output(), "NET-SNMP version") })
		const contact = ".1.3.6.1.2.1.1.4.0"
		if h.gw.Kind() == netns.Culvert { // the kernel loses those of SNMPv1: see above
			_, err = h.first.Exec(t.Context(), "snmptrap", "-m", "", "-v", "1", "-c", "public", manager, ".1.3.6.1.4.1.8072", f.first.String(), "6", "1", "", contact, "s", "first version")
			must(t, err)
			h.wantTrap(t, daemon, fmt.Sprintf("of %v, by UDP: [%v]:", f.outside, f.outside), "first version")
		}
		_, err = h.first.Exec(t.Context(), "snmptrap", "-m", "", "-v", "2c", "-c", "public", manager, "", ".1.3.6.1.6.3.1.1.5.1", contact, "s", "second version")
		must(t, err)
		h.wantTrap(t, daemon, fmt.Sprintf("of 0.0.0.0, by UDP: [%v]:", f.outside), "second version")
	})
}

// wantTrap waits for the line of a trap with a text, and checks how it begins.
func (h *house) wantTrap(t *testing.T, daemon *netns.Process, begin, text string) {
	t.Helper()
	var line string
	until(t, "the trap "+text+" comes", func() bool {
		for line = range strings.Lines(daemon.Output()) {
			if strings.Contains(line, text) {
				return true
			}
		}
		return false
	})
	if !strings.HasPrefix(line, begin) {
		t.Errorf("the manager says %q, want %s", line, begin)
	}
}
