package rules

import (
	"testing"
	"time"

	"example.com/culvert/conntrack"
)

// Set with all names leaves nothing of the table's timeouts out, and no two names
// set the same.
func TestEveryTimeoutHasOneName(t *testing.T) {
	var all, none conntrack.Timeouts
	seen := map[string]bool{}
	for i, timeout := range Timeouts() {
		if seen[timeout.Name] || seen[timeout.Sysctl] {
			t.Errorf("%s or %s is there twice", timeout.Name, timeout.Sysctl)
		}
		seen[timeout.Name], seen[timeout.Sysctl] = true, true
		if timeout.Of(&all) != 0 {
			t.Errorf("%s is set by another name", timeout.Name)
		}
		timeout.Set(&all, time.Duration(i+1)*time.Second)
	}
	for i, timeout := range Timeouts() {
		if got, want := timeout.Of(&all), time.Duration(i+1)*time.Second; got != want {
			t.Errorf("%s is %v after all were set, want %v", timeout.Name, got, want)
		}
	}
	for s, d := range all.TCP {
		if (d == 0) != (conntrack.State(s) == conntrack.None) {
			t.Errorf("TCP state %v has timeout %v", conntrack.State(s), d)
		}
	}
	all.TCP = none.TCP
	for _, d := range []time.Duration{
		all.TCPRetrans, all.TCPUnacked, all.UDP, all.UDPStream, all.GRE, all.GREStream, all.ICMP, all.ICMPv6, all.Generic,
		all.SCTP.Closed, all.SCTP.CookieWait, all.SCTP.CookieEchoed, all.SCTP.Established,
		all.SCTP.ShutdownSent, all.SCTP.ShutdownRecd, all.SCTP.ShutdownAckSent, all.SCTP.HeartbeatSent,
		all.DCCP.Request, all.DCCP.Respond, all.DCCP.PartOpen, all.DCCP.Open, all.DCCP.CloseReq, all.DCCP.Closing, all.DCCP.TimeWait,
	} {
		if d == 0 {
			t.Errorf("a timeout has no name: %+v", all)
		}
	}
}

func TestDurationsAreShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		30 * time.Second:            "30s",
		90 * time.Second:            "1m30s",
		10 * time.Minute:            "10m",
		2*time.Hour + 4*time.Minute: "2h4m",
		20 * time.Hour:              "20h",
		time.Hour + time.Second:     "1h0m1s",
		5 * 24 * time.Hour:          "5d",
		25 * time.Hour:              "25h",
		100 * time.Hour:             "100h",
		time.Hour + 10*time.Minute:  "1h10m",
		1500 * time.Millisecond:     "1.5s",
	} {
		if got := DurationText(d); got != want {
			t.Errorf("%v is written %s, want %s", d, got, want)
		}
	}
}

// Timeouts are part of what a rule is: another one is another rule.
func TestTimeoutsAreInTheNormalForm(t *testing.T) {
	short := RuleSpec{Then: ActAccept, Timeouts: &conntrack.Timeouts{UDP: 10 * time.Second}}
	long := RuleSpec{Then: ActAccept, Timeouts: &conntrack.Timeouts{UDP: time.Minute}}
	if got, want := short.Text(), "accept timeout udp=10s"; got != want {
		t.Errorf("normal form %q, want %q", got, want)
	}
	if ruleID(Filter, short.Text()) == ruleID(Filter, long.Text()) {
		t.Error("two rules with different timeouts have one id")
	}
}
