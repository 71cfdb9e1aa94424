package conntrack

import "testing"

// hearExpects returns where events of expectations arrive.
func hearExpects(t *testing.T, table *Table) <-chan ExpectEvent {
	events := make(chan ExpectEvent, 100)
	t.Cleanup(table.Listen(ExpectEvents, func(r *Record) {
		if r.Lost != (Counts{}) {
			t.Errorf("lost %v", r.Lost)
			return
		}
		events <- r.Expect
	}))
	return events
}
