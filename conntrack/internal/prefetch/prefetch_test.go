package prefetch

import "testing"

func TestLinesTakesAnyAddress(t *testing.T) {
	for n := range 70 {
		addresses := make([]uintptr, n)
		for i := range addresses {
			addresses[i] = uintptr(i) * 0x1234567
		}
		Lines(addresses)
	}
}
