//go:build netns

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"example.com/culvert/control/api"
)

// TestReloadEndsFlowsThatItsRulesEnd asks first what a reload would do to two live
// connections, does it, and asks why the next one is refused.
func TestReloadEndsFlowsThatItsRulesEnd(t *testing.T) {
	onlyCulvert(t, setup{}, func(t *testing.T, h *house) {
		stays, ends := at(ipv4.server, 7023), at(ipv4.server, 7024)
		serveTCP(t, h.server, stays, greet)
		serveTCP(t, h.server, ends, greet)
		kept := talk(t, h.first, at(ipv4.first, 0), stays)
		ended := talk(t, h.first, at(ipv4.first, 0), ends)

		next := filepath.Join(t.TempDir(), "next.toml")
		rule := "[[filter]]\nproto = \"tcp\"\ndport = %d\naction = \"reject\"\n"
		text := (&setup{config: fmt.Sprintf(rule, 7023) + fmt.Sprintf(rule+"on_change = \"end\"\n", 7024)}).toml()
		must(t, os.WriteFile(next, []byte(text), 0o600))

		reload := func(args ...string) api.Changes {
			out, err := h.gw.Ctl(t.Context(), append([]string{"reload", "-c", next, "-o", "json"}, args...)...)
			must(t, err)
			var result api.ReloadResult
			must(t, json.Unmarshal([]byte(out), &result))
			return result.Changes
		}
		if c := reload("--dry-run"); c.Kept != 1 || c.Ended != 1 || c.Reevaluated != 0 {
			t.Errorf("foreseen %+v, want one flow kept and one ended", c)
		}
		kept.say(t, "still here")
		ended.say(t, "still here")
		if c := reload(); c.Kept != 1 || c.Ended != 1 {
			t.Errorf("a reload does %+v, want one flow kept and one ended", c)
		}
		kept.say(t, "after the reload")
		if _, err := ended.in.ReadString('\n'); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the connection that ended reads %v, want a reset", err)
		}
		if st := h.status(t); st.Changes == nil || st.Changes.Kept != 1 || st.Changes.Ended != 1 {
			t.Errorf("the status shows changes %+v, want one flow kept and one ended", st.Changes)
		}

		out, err := h.gw.Ctl(t.Context(), "explain", "-o", "json", fmt.Sprintf("tcp %v:40000 > %v in lan0", ipv4.first, ends))
		must(t, err)
		var x api.Explanation
		must(t, json.Unmarshal([]byte(out), &x))
		last := x.Steps[len(x.Steps)-1]
		if x.Verdict != "rejected" || x.Reason != "rule-rejected" || len(last.Rules) != 1 || last.Rules[0].Index != 2 || last.Rules[0].Position == "" {
			t.Errorf("explained as %s (%s), last step %+v; want it rejected by the second rule", x.Verdict, x.Reason, last)
		}
		c, err := h.first.DialFrom(t.Context(), &net.TCPAddr{IP: ipv4.first.AsSlice(), Port: 40000}, "tcp", ends.String())
		if err == nil {
			c.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the connection that was asked about gets %v, want it refused", err)
		}
	})
}
