package control

import "testing"

// small is a gateway whose table holds 64 flows.
func small(t *testing.T) *bench {
	t.Helper()
	b := newBench(t, masquerading+"[conntrack]\nmax = 64\n", Options{}, "lan0", "wan0")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

// fill begins n flows from 10.0.0.5.
func (b *bench) fill(t *testing.T, n uint16) {
	t.Helper()
	for sport := range n {
		b.send(t, 40000+sport)
		b.received(t)
	}
}

func TestFullTableNamesItsHolders(t *testing.T) {
	b := small(t)
	b.fill(t, 50)
	if st := b.Status(); st.Holders != nil {
		t.Errorf("%d of %d flows: holders %v, want none named below 80 %%", st.Flows, st.FlowLimit, st.Holders)
	}
	b.fill(t, 60)
	st := b.Status()
	if len(st.Holders) != 1 || st.Holders[0].String() != "10.0.0.5 (60 flows, 60 half-open)" {
		t.Errorf("%d of %d flows: holders %v, want 10.0.0.5 with 60", st.Flows, st.FlowLimit, st.Holders)
	}
}

func TestAlarmsAreCounted(t *testing.T) {
	b := small(t)
	b.fill(t, 59) // 92 percent
	eventually(t, "alarm at 90 percent", func() bool {
		b.send(t, 40000) // time passes with packets
		b.received(t)
		return b.Tracking().Alarms[1] == 1
	})
	if got := b.Tracking(); got.Alarms[0] > 1 || got.Alarms[2] != 0 || got.Stats.Insert != 59 {
		t.Errorf("alarms %v after %d flows, want none of 95 percent, and 80 percent once if it was seen", got.Alarms, got.Stats.Insert)
	}
}
