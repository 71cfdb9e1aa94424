package word

import (
	"sync"
	"testing"
)

func TestWords(t *testing.T) {
	var a uint32
	var b uint64
	Store32(&a, 7)
	Store64(&b, 1<<40)
	Add64(&b, 2)
	if Load32(&a) != 7 || Load64(&b) != 1<<40+2 {
		t.Errorf("got %d and %d, want 7 and 2^40+2", Load32(&a), Load64(&b))
	}
}

// TestStoreReleases: who sees the flag sees what was written before it.
func TestStoreReleases(t *testing.T) {
	for range 1000 {
		var flag uint32
		var plain int
		var done sync.WaitGroup
		done.Go(func() {
			plain = 42
			Store32(&flag, 1)
		})
		done.Go(func() {
			if Load32(&flag) == 1 && plain != 42 {
				t.Error("the flag overtook the value")
			}
		})
		done.Wait()
	}
}
