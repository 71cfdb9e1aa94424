package dataplane

import (
	"fmt"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/rules"
)

// TestWallClockThatJumpsCostsNoPacket sets the clock forward and back by years while
// flows are used: they go on, and end when they would have. Rules with hours and the
// times that are shown follow within a second.
func TestWallClockThatJumpsCostsNoPacket(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	wall := func() time.Time { return now }
	work := rules.Window{Hours: oneOf(rules.HourRange{First: 8 * 3600, Last: 18 * 3600}), Zone: time.UTC}
	l := newLab(t, labConfig{
		engine: func(c *Config) { c.Wall = wall },
		table:  func(c *conntrack.Config) { c.Wall, c.Timestamp = wall, true },
		rules: filterOf(
			rules.RuleSpec{If: rules.Conditions{State: oneOf(rules.Established), InArea: oneOf("lan", "wan")}, Then: rules.ActAccept},
			rules.RuleSpec{If: rules.Conditions{Window: work}, Then: rules.ActAccept},
			rules.RuleSpec{If: rules.Conditions{InArea: oneOf("lan")}, Then: rules.ActDrop},
		),
	})
	l.talk(2)
	const exchanges = 20
	jumps := []time.Duration{24 * time.Hour, -48 * time.Hour, 10 * time.Hour, 14 * time.Hour, 100 * 365 * 24 * time.Hour, -150 * 365 * 24 * time.Hour, time.Second, -time.Second}
	for i, d := range jumps {
		now = now.Add(d)
		before := l.e.Stats().Forwarded
		for range exchanges {
			l.talk(1)
			l.advance(200 * time.Millisecond) // of the boot clock, which does not jump
		}
		if n := l.e.Stats().Forwarded - before; n != 2*exchanges {
			t.Errorf("after a jump of %v %d packets of a flow in use passed, want %d", d, n, 2*exchanges)
		}
		l.wantDrops()
		if shown := l.table.Time(tickAt(l.now)); shown.Sub(now).Abs() > 2*time.Second {
			t.Errorf("after a jump of %v the time is shown as %v, want %v", d, shown, now)
		}
		l.send("lan", udp(fmt.Sprintf("10.0.0.6:%d", 40000+i), "198.51.100.7:53"))
		if h := now.Hour(); h >= 8 && h < 18 {
			l.take("wan")
		} else {
			l.wantDrops(RuleDenied)
		}
	}
	l.talk(1)
	now = now.Add(time.Hour)
	l.advance(119 * time.Second) // UDP streams live 120 s
	if n := len(l.flows()); n != 1 {
		t.Errorf("%d flows before their idle time is over, want 1", n)
	}
	l.advance(2 * time.Second)
	if n := len(l.flows()); n != 0 {
		t.Errorf("%d flows after it, want none", n)
	}
}
