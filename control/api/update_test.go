package api

import (
	"testing"

	"example.com/culvert/conntrack"
)

// TestLabelsCountAsChanged when some are added, whether they were there or not, and when
// some are cleared in a flow that has any, as with conntrack(8).
func TestLabelsCountAsChanged(t *testing.T) {
	for _, tt := range []struct {
		name   string
		update FlowUpdate
		labels [2]uint64
		want   bool
	}{
		{"one is added", FlowUpdate{AddLabels: []int{5}}, [2]uint64{}, true},
		{"one is added that is there", FlowUpdate{AddLabels: []int{5}}, [2]uint64{1 << 5}, true},
		{"the only one is cleared", FlowUpdate{ClearLabels: []int{127}}, [2]uint64{0, 1 << 63}, true},
		{"another one is cleared", FlowUpdate{ClearLabels: []int{6}}, [2]uint64{1 << 5}, true},
		{"one is cleared where none are", FlowUpdate{ClearLabels: []int{6}}, [2]uint64{}, false},
		{"nothing is said about them", FlowUpdate{}, [2]uint64{1 << 5}, false},
	} {
		u, err := tt.update.update()
		if err != nil {
			t.Fatal(err)
		}
		if got := changes(&u, &conntrack.Flow{Labels: tt.labels}); got != tt.want {
			t.Errorf("%s: changed is %v, want %v", tt.name, got, tt.want)
		}
	}
}
