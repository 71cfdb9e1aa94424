//go:build netns

package e2e

import (
	"fmt"
	"testing"
)

// TestInsertedFlowTranslatesAtOnce inserts flows that are translated at the source and at
// the destination, as no rule would, and sends datagrams that are of them.
func TestInsertedFlowTranslatesAtOnce(t *testing.T) {
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			client, named, real := at(f.first, 41001), at(near(f.server, 77), 7041), at(f.server, 7042)
			serveUDP(t, h.server, real)
			_, err := h.conntrack(t, "-I", "-p", "udp", "-s", f.first.String(), "-d", named.Addr().String(), "--sport", "41001", "--dport", "7041",
				"-t", "100", "-n", at(f.outside, 42001).String(), "-g", real.String())
			must(t, err)
			line := fmt.Sprintf("src=%v dst=%v sport=41001 dport=7041 %%ssrc=%v dst=%v sport=7042 dport=42001 ", f.first, named.Addr(), f.server, f.outside)
			h.wantFlow(t, "udp 17 100 "+fmt.Sprintf(line, "[UNREPLIED] ")+"mark=0 use=1")

			socket := bindUDP(t, h.first, client)
			_, err = socket.WriteToUDPAddrPort([]byte("by the inserted flow"), named)
			must(t, err)
			if seen, want := socket.answer(t, named, "by the inserted flow"), at(f.outside, 42001); seen != want {
				t.Errorf("the server sees %v, want %v", seen, want)
			}
			h.wantFlow(t, "udp 17 30 "+fmt.Sprintf(line, "")+"mark=0 use=1")
		})
	})
}

// TestDeletedFlowMeetsTheNewRules reloads with rules that masquerade to other ports. The
// flow keeps its own until it is deleted; its next datagram makes one by the new rules.
func TestDeletedFlowMeetsTheNewRules(t *testing.T) {
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			must(t, h.gw.Reload(t.Context(), (&setup{}).text(h.gw.Kind())))
			service := at(f.server, 7043)
			serveUDP(t, h.server, service)
			client := bindUDP(t, h.first, at(f.first, 41003))
			ask := func(when string, port uint16) {
				t.Helper()
				if seen, want := client.ask(t, service, when), at(f.outside, port); seen != want {
					t.Errorf("%s the server sees %v, want %v", when, seen, want)
				}
			}
			ask("before the reload", 41003)
			must(t, h.gw.Reload(t.Context(), otherPort.text(h.gw.Kind())))
			ask("after the reload", 41003)
			_, err := h.conntrack(t, "-D", "-p", "udp", "-s", f.first.String(), "--sport", "41003")
			must(t, err)
			ask("when the flow is deleted", 45003)
			h.wantFlow(t, fmt.Sprintf("udp 17 30 src=%v dst=%v sport=41003 dport=7043 src=%v dst=%v sport=7043 dport=45003 mark=0 use=1", f.first, f.server, f.server, f.outside))
		})
	})
}

// otherPort masquerades the flows to a service with another port.
var otherPort = setup{
	snat: `
[[snat]]
out_area = "wan"
proto = "udp"
dport = 7043
action = "masquerade"
ports = 45003
`,
	postrouting: `oifname "wan0" udp dport 7043 masquerade to :45003`,
}
