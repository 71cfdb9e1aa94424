package control

import (
	"runtime"
	"testing"
)

func TestWorkersArePinnedUnlessThereIsOne(t *testing.T) {
	if cpus := cpusFor(1); cpus != nil {
		t.Errorf("one worker is pinned to %v, want free", cpus)
	}
	if cpus := cpusFor(2); len(cpus) != runtime.NumCPU() {
		t.Errorf("two workers are pinned to %v, want the %d processors this process may use", cpus, runtime.NumCPU())
	}
}
