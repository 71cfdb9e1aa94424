//go:build netns

package e2e

import (
	"fmt"
	"testing"
)

// TestBothDirectionsMeetOnOneWorker: two hosts speak from the same ports, so that one of
// them gets others; whatever worker has a flow, it has both directions.
func TestBothDirectionsMeetOnOneWorker(t *testing.T) {
	onlyCulvert(t, setup{gateway: "workers = 2"}, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			const rounds = 20
			server := at(f.server, 5353)
			serveUDP(t, h.server, server)
			first, second := bindUDP(t, h.first, at(f.first, 0)), bindUDP(t, h.second, at(f.second, 0))
			first.ask(t, server, "hello") // neighbours are known from now on
			second.ask(t, server, "hello")
			had := [2]int{}
			for i := range uint16(6) {
				port := 20011 + 37*i
				for _, d := range []datagrams{bindUDP(t, h.first, at(f.first, port)), bindUDP(t, h.second, at(f.second, port))} {
					seen := d.ask(t, server, "first")
					was := h.receivedByWorker(t)
					for range rounds {
						d.ask(t, server, "more")
					}
					is := h.receivedByWorker(t)
					took := [2]int{is[0] - was[0], is[1] - was[1]}
					one := 0
					if took[1] > took[0] {
						one = 1
					}
					had[one]++
					if took[one] < 2*rounds || took[1-one] >= rounds {
						t.Errorf("port %d, outside %d: the workers took %v of %d packets, want one to take all", port, seen.Port(), took, 2*rounds)
					}
				}
			}
			if had[0] == 0 || had[1] == 0 {
				t.Errorf("flows by worker %v: one has none", had)
			}
		})
	})
}

// receivedByWorker returns how many packets each of two workers has taken.
func (h *house) receivedByWorker(t *testing.T) (n [2]int) {
	t.Helper()
	for i := range n {
		n[i] = h.metric(t, fmt.Sprintf(`culvert_worker_received_packets_total{worker="%d"}`, i))
	}
	return n
}
