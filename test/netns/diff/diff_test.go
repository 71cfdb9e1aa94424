//go:build netns

package diff

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/culvert/test/netns"
)

const (
	ciSequences   = 500
	longSequences = 20000
	wave          = 1000 // sequences at a time
)

// numbers returns how many sequences to run, and the seed.
func numbers(t *testing.T) (n int, seed uint64) {
	t.Helper()
	n, seed = ciSequences, 1
	if os.Getenv("CULVERT_LONG") != "" {
		n = longSequences
	}
	for _, v := range []struct {
		name string
		set  func(uint64)
	}{
		{"CULVERT_SEED", func(x uint64) { seed = x }},
		{"CULVERT_SEQUENCES", func(x uint64) { n = int(x) }},
	} {
		if text := os.Getenv(v.name); text != "" {
			x, err := strconv.ParseUint(text, 10, 63)
			if err != nil {
				t.Fatalf("%s: %v", v.name, err)
			}
			v.set(x)
		}
	}
	return n, seed
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return &rig{gateways: [2]*gateway{kernel: build(t, netns.Kernel), ours: build(t, netns.Culvert)}, next: markerSlot + 1}
}

// TestCulvertDoesWhatTheKernelDoes compares packets and flow lines of random
// sequences.
func TestCulvertDoesWhatTheKernelDoes(t *testing.T) {
	n, seed := numbers(t)
	r := newRig(t)
	began := time.Now()
	var differing []*trial
	for first := 0; first < n; first += wave {
		var all []*sequence
		for i := first; i < min(n, first+wave); i++ {
			all = append(all, generate(seed, uint64(i)))
		}
		trials, err := r.run(t.Context(), all)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range trials {
			if !x.same() {
				differing = append(differing, x)
			}
		}
	}
	report(t, r, n, differing)
	t.Logf("%d sequences of seed %d in %v", n, seed, time.Since(began).Round(time.Millisecond))
}

// shown is how many sequences of an unlisted difference are printed.
const shown = 12

// report sorts differences into classes and fails for those that have none.
func report(t *testing.T, r *rig, n int, differing []*trial) {
	t.Helper()
	counts := make([]int, len(classes))
	var unlisted []*trial
	for _, x := range differing {
		if i := classOf(x); i >= 0 {
			counts[i]++
			continue
		}
		unlisted = append(unlisted, x)
	}
	listed := 0
	for i, c := range classes {
		listed += counts[i]
		t.Logf("%6d  %s: %s", counts[i], c.name, c.why)
	}
	if listed*100 > n*maxListedPercent {
		t.Errorf("%d of %d sequences are in a class of differences, want at most %d %%", listed, n, maxListedPercent)
	}
	if len(unlisted) == 0 {
		return
	}
	small, err := r.shrink(t.Context(), unlisted[:min(len(unlisted), shown)])
	if err != nil {
		t.Error(err)
		small = unlisted[:min(len(unlisted), shown)]
	}
	var b strings.Builder
	for _, x := range small {
		b.WriteString(x.script())
		b.WriteByte('\n')
	}
	t.Errorf("%d of %d sequences came out differently; some, as short as they get:\n%s", len(unlisted), n, b.String())
}
