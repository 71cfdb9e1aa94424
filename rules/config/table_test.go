package config

import (
	"testing"
	"time"

	"example.com/culvert/conntrack"
)

// What the file says reaches the table.
func TestTableHasTheSettingsOfTheFile(t *testing.T) {
	c, err := Load("testdata/good/everything.toml")
	if err != nil {
		t.Fatal(err)
	}
	got := c.Conntrack.Table()
	if got.Max != 100000 || !got.Reserve || got.MaxExpect != 100 || got.Profile != conntrack.RFC || !got.Timestamp ||
		got.Pickup != conntrack.Strict || got.Window != conntrack.Liberal || !got.IgnoreInvalidRST || got.TCPMaxRetrans != 2 {
		t.Errorf("table %+v", got)
	}
	if want := (conntrack.Shares{Floor: 1000, HalfOpen: 2000, Rate: 3000}); got.Shares != want {
		t.Errorf("shares %+v, want %+v", got.Shares, want)
	}
	if got.Timeouts.TCP[conntrack.SynSent2] != 20*time.Second || got.Timeouts.SCTP.HeartbeatSent != 42*time.Second || got.Timeouts.DCCP.TimeWait != 49*time.Second {
		t.Errorf("timeouts %+v", got.Timeouts)
	}
}
