//go:build netns

package e2e

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"example.com/culvert/test/netns"
)

// timeoutSlack is how far the seconds left may be from what is expected: the
// clock runs while the test looks.
const timeoutSlack = 2

// sameFlow reports whether a line of conntrack -L is as expected: word by word,
// where "*" in want stands for any text and the timeout may be a little off.
func sameFlow(got, want string) bool {
	g, w := strings.Fields(got), strings.Fields(want)
	if len(g) != len(w) {
		return false
	}
	for i := range w {
		if !sameWord(g[i], w[i]) && !(i == 2 && nearly(g[i], w[i])) {
			return false
		}
	}
	return true
}

func sameWord(got, want string) bool {
	before, after, any := strings.Cut(want, "*")
	if !any {
		return got == want
	}
	return len(got) >= len(before)+len(after) && strings.HasPrefix(got, before) && strings.HasSuffix(got, after)
}

func nearly(got, want string) bool {
	g, err1 := strconv.Atoi(got)
	w, err2 := strconv.Atoi(want)
	return err1 == nil && err2 == nil && g <= w+timeoutSlack && g >= w-timeoutSlack
}

// wantFlow waits for a flow line.
func (h *house) wantFlow(t *testing.T, want string) netns.Flow {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience/3)
	defer cancel()
	f, err := h.gw.WaitFlow(ctx, func(f netns.Flow) bool { return sameFlow(f.Line, want) })
	if err != nil {
		t.Errorf("no flow is %q: %v", want, err)
	}
	return f
}

// flowCount counts the flows that match.
func (h *house) flowCount(t *testing.T, match func(netns.Flow) bool) int {
	t.Helper()
	flows, err := h.gw.Flows(t.Context())
	must(t, err)
	n := 0
	for _, f := range flows {
		if match(f) {
			n++
		}
	}
	return n
}

func TestFlowLinesAreComparedWordByWord(t *testing.T) {
	const line = "udp      17 29 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 mark=0 use=1"
	for _, tt := range []struct {
		name, want string
		same       bool
	}{
		{"the same", line, true},
		{"spaces do not count", "udp 17 29 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 mark=0 use=1", true},
		{"the timeout may be two seconds off", "udp 17 31 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 mark=0 use=1", true},
		{"but not three", "udp 17 32 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 mark=0 use=1", false},
		{"a port by chance", "udp 17 29 src=10.0.0.1 dst=10.0.0.2 sport=* dport=2 mark=0 use=1", true},
		{"another port", "udp 17 29 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=3 mark=0 use=1", false},
		{"a word more", "udp 17 29 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 [ASSURED] mark=0 use=1", false},
	} {
		if got := sameFlow(line, tt.want); got != tt.same {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
