package api

import (
	"net/netip"
	"strings"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

func TestMatchesAreWrittenAsPeopleWould(t *testing.T) {
	prefix := netip.MustParsePrefix
	for text, want := range map[string]Match{
		"":                                              {},
		"tcp host 10.0.0.5 port 443":                    {Proto: tuple.TCP, Host: prefix("10.0.0.5/32"), Port: 443},
		"ipv6 icmp dropped":                             {Family: tuple.IPv6, Proto: tuple.ICMPv6, Dropped: true},
		"udp 10.0.0.5:4000 > 198.51.100.7:53":           {Proto: tuple.UDP, Src: prefix("10.0.0.5/32"), Sport: 4000, Dst: prefix("198.51.100.7/32"), Dport: 53},
		"* > [2001:db8::7]:53 in lan0 out wan0":         {Dst: prefix("2001:db8::7/128"), Dport: 53, In: "lan0", Out: "wan0"},
		"10.0.0.0/24 > * interface wan0":                {Src: prefix("10.0.0.0/24"), Interface: "wan0"},
		"src 10.0.0.9/24 dst 192.0.2.1 sport 7 dport 9": {Src: prefix("10.0.0.0/24"), Dst: prefix("192.0.2.1/32"), Sport: 7, Dport: 9},
		"reason no-route flow 77":                       {Reason: "no-route", Flow: 77},
		"helper ftp helped":                             {Helper: "ftp", Helped: true},
		"proto 47":                                      {Proto: tuple.GRE},
	} {
		if got, err := ParseMatch(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
}

func TestWrongMatchesSayWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"tpc":                `unknown word "tpc"; did you mean tcp?`,
		"port 70000":         `port "70000": want a number up to 65535`,
		"flow":               "flow needs a value: ID",
		"10.0.0.5 > nowhere": `"nowhere": want an address`,
		"src 10.0.0.0/33":    "or a prefix such as 10.0.0.0/24",
		"completely-else":    `unknown word "completely-else"; write `,
	} {
		if _, err := ParseMatch(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzParseMatchNeverPanics(f *testing.F) {
	f.Add("tcp 10.0.0.5:1 > * in lan0")
	f.Add("> > >")
	f.Fuzz(func(_ *testing.T, text string) { _, _ = ParseMatch(text) })
}
