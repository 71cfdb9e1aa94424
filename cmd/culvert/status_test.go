package main

import (
	"bytes"
	"strings"
	"testing"

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
