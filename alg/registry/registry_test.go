package registry

import (
	"slices"
	"testing"
)

func TestHelpersAreFitAndInOrder(t *testing.T) {
	var names []string
	for _, h := range Helpers {
		names = append(names, h.Spec().Name)
	}
	if got := New().Names(); !slices.Equal(got, names) {
		t.Errorf("order is %v, want %v", names, got)
	}
}
