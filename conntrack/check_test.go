package conntrack

import (
	"strings"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// TestCheckFinds damages a table in one way after the other, looks whether
// Check says so, and repairs it.
func TestCheckFinds(t *testing.T) {
	w := newWorker(t, Config{Max: 100})
	table := w.t
	p := proposal(flowTuple(tuple.UDP, 1))
	r := mustAdmit(t, w, p, data, start)
	e := w.Entry(r.Slot)
	if err := w.Expect(r, &Expectation{Tuple: flowTuple(tuple.UDP, 9), Mask: AnyMask()}, ExpectPolicy{Timeout: second}); err != nil {
		t.Fatal(err)
	}
	who := &table.clients.recs[table.owner[r.Slot]]
	cell := table.expectCell(&table.expects.recs[1].x.Tuple)
	shard := &table.index.shards[table.index.shardOf(table.index.key.tuple(&p.Original))]
	tests := []struct {
		name   string
		damage func()
		repair func()
		want   string
	}{
		{"a tuple that changed", func() { e.half[0].tuple.SrcPort++ }, func() { e.half[0].tuple.SrcPort-- }, "leads to slot 0"},
		{"a dying entry in the index", func() { e.status |= uint32(Dying) }, func() { e.status &^= uint32(Dying) }, "dying, but in the index"},
		{"a state of another protocol", func() { e.word |= uint32(Established) }, func() { e.word = 0 }, "protocol 17 in state"},
		{"an entry that is swept too late", func() { table.due[r.Slot] += 1 << 20 }, func() { table.due[r.Slot] -= 1 << 20 }, "after its deadline"},
		{"a shard that counts wrong", func() { shard.n++ }, func() { shard.n-- }, "counts"},
		{"a table that counts wrong", func() { table.live.Add(1) }, func() { table.live.Add(-1) }, "values for 2 flows"},
		{"a client that counts too little", func() { who.held-- }, func() { who.held++ }, "client"},
		{"a client with more assured flows than it has", func() { who.held += 3 << clientAssured }, func() { who.held -= 3 << clientAssured }, "3 assured"},
		{"a client with more answers than flows", func() { who.answered += 3 }, func() { who.answered -= 3 }, "3 answered"},
		{"an expectation whose master is another flow", func() { e.gen++ }, func() { e.gen-- }, "its master in slot"},
		{"an expectation that lookups pass over", func() { table.expects.filter[cell].Store(0) }, func() { table.expects.filter[cell].Store(1) }, "expectation filter"},
		{"expectations that are counted wrong", func() { table.expects.n.Add(1) }, func() { table.expects.n.Add(-1) }, "2 expectations"},
	}
	for _, tt := range tests {
		tt.damage()
		faults := table.Check(start)
		tt.repair()
		found := false
		for _, err := range faults {
			found = found || strings.Contains(err.Error(), tt.want)
		}
		if !found {
			t.Errorf("%s: Check says %v, want %q", tt.name, faults, tt.want)
		}
		if faults := table.Check(start); len(faults) != 0 {
			t.Fatalf("%s: after the repair: %v", tt.name, faults)
		}
	}
}
