//go:build netns

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"
)

// TestHostsAskForPorts has a real NAT-PMP client (RFC 6886) ask for a port. The kernel
// has nothing like it.
func TestHostsAskForPorts(t *testing.T) {
	onlyCulvert(t, setup{config: "\n[pcp]\nenabled = true\n"}, func(t *testing.T, h *house) {
		f := &ipv4
		serveTCP(t, h.first, at(f.first, 8080), greet)
		ask := func(lifetime string) string {
			t.Helper()
			out, err := h.first.Exec(t.Context(), "natpmpc", "-g", f.inside.String(), "-a", "8080", "8080", "tcp", lifetime)
			must(t, err)
			return out
		}
		reached := func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			c, err := h.server.Dial(ctx, "tcp", at(f.outside, 8080).String())
			if err == nil {
				c.Close()
			}
			return err == nil
		}
		if reached() {
			t.Error("the host is reached before it has asked")
		}
		out := ask("600")
		for _, want := range []string{"Public IP address : " + f.outside.String(), "Mapped public port 8080 protocol TCP to local port 8080 liftime 600"} {
			if !strings.Contains(out, want) {
				t.Errorf("the client says\n%s\nwant %q", out, want)
			}
		}
		if c := talk(t, h.server, at(f.server, 30300), at(f.outside, 8080)); c.seen != at(f.server, 30300) {
			t.Errorf("the host sees %v", c.seen)
		}
		ask("0")
		if reached() {
			t.Error("the host is reached after it has given the port back")
		}
	})
}
