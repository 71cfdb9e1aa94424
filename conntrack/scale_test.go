//go:build !race

package conntrack

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// bytesPerFlow is the budget of a flow, all in.
const bytesPerFlow = 256

// TestMemoryPerFlow fills a table and compares the memory that became
// resident with the budget.
func TestMemoryPerFlow(t *testing.T) {
	const flows = 500_000 // enough to make the rounding to huge pages small
	w := newWorker(t, Config{Max: flows})
	before := resident(t)
	for i := range flows {
		if i%MaxBatch == 0 {
			w.Begin(start)
		}
		mustAdmit(t, w, proposal(benchTuple(tuple.UDP, i)), data, start)
	}
	if got := (resident(t) - before) / flows; got > bytesPerFlow {
		t.Errorf("%d bytes a flow, want at most %d", got, bytesPerFlow)
	} else {
		t.Logf("%d bytes a flow", got)
	}
}

// resident returns the resident memory of this process in bytes.
func resident(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(status))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
