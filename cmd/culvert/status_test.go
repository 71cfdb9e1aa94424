package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"example.com/culvert/control/api"
)

func TestStatusNamesTheHoldersOfAFullTable(t *testing.T) {
	for _, tt := range []struct {
		claim   string
		holders []api.Holder
		want    string
	}{
		{"nobody while there is room", nil, "flows: 900 of 1000\npackets: "},
		{"the largest when there is none", []api.Holder{{Client: "10.0.0.5", Flows: 700, HalfOpen: 600}, {Client: "2001:db8:1::/64", Zone: 7, Flows: 100}},
			"flows: 900 of 1000\nnearly full; most flows: 10.0.0.5 (700 flows, 600 half-open), 2001:db8:1::/64 in zone 7 (100 flows, 0 half-open)\npackets: "},
	} {
		var out bytes.Buffer
		if err := printStatus(&out, api.Status{Flows: 900, FlowLimit: 1000, Holders: tt.holders}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), tt.want) {
			t.Errorf("%s: status\n%s\nwant in it\n%s", tt.claim, out.String(), tt.want)
		}
	}
}

func TestStatusForeseesWhenPortsRunOut(t *testing.T) {
	st := api.Status{
		Ports: []api.PortUse{
			{Address: "203.0.113.1", Protocol: "tcp", Used: 52000, Kept: 254, Total: 64512, FullIn: 14 * 60},
			{Address: "203.0.113.1", Protocol: "udp", Used: 40000, Total: 64512},
			{Address: "203.0.113.2", Protocol: "udp", Used: 400, Total: 64512},
		},
		Refusals: []api.Refusal{{At: time.Now().Add(-2 * time.Second), Reason: "ports-exhausted", Advice: "widen ports or add an address", Client: "10.0.0.5",
			Address: "203.0.113.9", Protocol: "tcp", Destination: "198.51.100.7:443", Packets: 12}},
	}
	var out bytes.Buffer
	if err := printStatus(&out, st); err != nil {
		t.Fatal(err)
	}
	want := `ports: 203.0.113.1 tcp 80 % used, at the present rate full in 14 min
ports: 203.0.113.1 udp 62 % used
no port 2s ago: ports-exhausted for 10.0.0.5 to tcp 198.51.100.7:443, at 203.0.113.9: widen ports or add an address
packets: `
	if !strings.Contains(out.String(), want) {
		t.Errorf("status\n%s\nwant in it\n%s", out.String(), want)
	}
}

func TestStatusIsOneScreen(t *testing.T) {
	st := api.Status{
		Name: "home", Ready: true, Generation: 3, Rules: 4, Started: time.Now().Add(-2 * time.Hour),
		Flows: 812, FlowLimit: 65536, Forwarded: 120000, Dropped: 42,
		Load: &api.Load{Seconds: 60, Packets: 12345, Bytes: 12_275_000, Begun: 12, Ended: 11.46, Busy: []float64{0.123, 0}, Working: 1, Drops: []api.Counter{
			{Reason: "rule-denied", Count: 30, Advice: "your rule; see culvert rules"}, {Reason: "no-route", Count: 2, Advice: "add a route or a next_hop"}}},
		Interfaces: []api.Interface{{Name: "eth0", Area: "wan", State: api.StateUp, Driver: "af_packet", MTU: 1500, Addresses: []string{"203.0.113.1/24"}}},
	}
	good := `home: ready, generation 3, 4 rules, up 2h0m0s
health: good
load: 12.3 k packets/s, 98.2 Mbit/s, 1 of 2 workers at work, busy 12 %, 0 % (last 60 s)
flows: 812 of 65536, 1 % full; 12 begin and 11.5 end a second
packets: 120000 forwarded, 42 dropped

DROPPED IN 60 s  REASON       ADVICE
30               rule-denied  your rule; see culvert rules
2                no-route     add a route or a next_hop

INTERFACE  AREA  STATE  UPLINK  DRIVER     MTU   ADDRESSES       NEXT HOPS
eth0       wan   up     -       af_packet  1500  203.0.113.1/24  -
`
	var out bytes.Buffer
	if err := printStatus(&out, st); err != nil || out.String() != good {
		t.Errorf("%v, status\n%s\nwant\n%s", err, out.String(), good)
	}
	st.Troubles = []string{"interface eth1 is down: set it up, or see to its cable"}
	out.Reset()
	if err := printStatus(&out, st); err != nil || !strings.Contains(out.String(), "\ntrouble: interface eth1 is down: set it up, or see to its cable\nload: ") || strings.Contains(out.String(), "good") {
		t.Errorf("%v, status\n%s\nwant the trouble in it", err, out.String())
	}
}

func TestAmountsAreShort(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.52: "0.5", 7: "7", 12.25: "12.2", 999: "999", 999.6: "1.00 k", 1234: "1.23 k", 45_600: "45.6 k", 456_000: "456 k", 1.5e6: "1.50 M", 2e9: "2.00 G", 5e15: "5000 T"} {
		if got := si(v); got != want {
			t.Errorf("si(%v) = %q, want %q", v, got, want)
		}
	}
	if bits(12) != "12 bit" || bits(1.23e6) != "1.23 Mbit" {
		t.Errorf("bits: %q, %q", bits(12), bits(1.23e6))
	}
}

func TestStatusAndCountersNameWhoFloodsAHelper(t *testing.T) {
	helpers := []api.Helper{
		{Name: "ftp", Announced: 7},
		{Name: "sip", Unread: 3, Announced: 5, Refused: 1,
			Last: &api.RefusedAnnouncement{At: time.Now().Add(-2 * time.Second), Client: "10.0.0.5", Reason: "too many announcements"}},
	}
	var status, counters bytes.Buffer
	if err := errors.Join(printStatus(&status, api.Status{Helpers: helpers[1:]}), printHelpers(&counters, helpers)); err != nil {
		t.Fatal(err)
	}
	const line = "helper sip: 3 messages unread, 1 announcement refused; last: 10.0.0.5 2s ago: too many announcements\n"
	if !strings.Contains(status.String(), line) {
		t.Errorf("status\n%s\nwant in it\n%s", status.String(), line)
	}
	const want = "HELPER  UNREAD  ANNOUNCED  REFUSED  LAST REFUSED\n" +
		"ftp     0       7          0        -\n" +
		"sip     3       5          1        10.0.0.5 2s ago: too many announcements\n"
	if counters.String() != want {
		t.Errorf("counters --helpers\n%s\nwant\n%s", counters.String(), want)
	}
}
