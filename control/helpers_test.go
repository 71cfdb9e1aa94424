package control

import (
	"strings"
	"testing"

	"example.com/culvert/control/api"
)

const helping = masquerading + `
[[filter]]
dport = 69
proto = "udp"
action = "helper"
helper = "tftp"

[helpers]
flow_per_second = 64
`

// TestHelpersTellWhatTheyCouldNotRead: status and API name the helper and whose payload
// announced more than a reload of [helpers] lets it.
func TestHelpersTellWhatTheyCouldNotRead(t *testing.T) {
	b := newBench(t, helping, Options{}, "lan0", "wan0")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	helper := func() (found api.Helper) {
		for _, h := range b.Helpers() {
			if h.Name == "tftp" {
				found = h
			}
		}
		return found
	}
	send := func(from, text string) {
		t.Helper()
		b.datagram(t, "lan0", from, "203.0.113.9:69", []byte(text))
	}
	send("10.0.0.5:4000", "\x00\x01boot.img\x00octet\x00")
	eventually(t, "a transfer is announced", func() bool { return helper().Announced == 1 })
	if st := b.Status(); len(st.Helpers) != 0 {
		t.Errorf("status tells of %+v when all is well", st.Helpers)
	}
	send("10.0.0.5:4000", "hello")
	eventually(t, "a message is unread", func() bool { return helper().Unread == 1 })

	text := strings.Replace(helping, "flow_per_second = 64", "client_per_second = 1\nflow_per_second = 1", 1)
	if err := b.Reload(parse(t, text)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second request of a second is refused", func() bool {
		send("10.0.0.5:4001", "\x00\x01boot.img\x00octet\x00")
		send("10.0.0.5:4001", "\x00\x01boot.img\x00octet\x00")
		return helper().Refused > 0
	})
	st := b.Status()
	if len(st.Helpers) != 1 || st.Helpers[0].Last == nil || st.Helpers[0].Last.Client != "10.0.0.5" || st.Helpers[0].Last.Reason != "too many announcements" {
		t.Errorf("status tells of %+v", st.Helpers)
	}
}
