package main

import (
	"bytes"
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
