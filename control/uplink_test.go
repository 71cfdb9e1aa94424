package control

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"example.com/culvert/control/kernel"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/rules/config"
)

func TestOnlyRoundsInARowChangeAnUplink(t *testing.T) {
	check := config.Check{DownAfter: 3, UpAfter: 2}
	for _, tt := range []struct{ claim, rounds, states string }{
		{"good rounds change nothing", "++++", "uuuu"},
		{"three bad ones in a row take it down", "---", "uud"},
		{"a good one between starts anew", "--+--+---", "uuuuuuuud"},
		{"two good ones in a row bring it back", "---++", "uuddu"},
		{"one does not", "---+-+-++", "uuddddddu"},
		{"bad ones while it is down change nothing", "------++", "uudddddu"},
	} {
		var v vitals
		got := ""
		for _, r := range tt.rounds {
			was := v.down
			if changed := v.round(r == '+', &check); changed != (v.down != was) {
				t.Errorf("%s: changed %v, but down was %v and is %v", tt.claim, changed, was, v.down)
			}
			got += map[bool]string{false: "u", true: "d"}[v.down]
		}
		if want := tt.states; got != want {
			t.Errorf("%s: %s leads to %s, want %s", tt.claim, tt.rounds, got, want)
		}
	}
}

// twoISPs is the router with a second uplink, whose router the kernel knows, too.
func twoISPs() world {
	w := router()
	k := w.kernels[""]
	k.Interfaces["isp1"] = kernel.Interface{Name: "isp1", Index: 6, MTU: 1500, Up: true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")}}
	k.Routes = append(k.Routes,
		kernel.Route{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("198.51.100.1"), Index: 6, Metric: 200},
		kernel.Route{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Index: 6})
	w.kernels[""] = k
	return w
}

func TestDefaultRoutesOfUplinks(t *testing.T) {
	const second = "[[interface]]\nname = \"isp1\"\narea = \"wan\"\n"
	down := twoISPs()
	down.down = map[key]struct{}{{"", "isp1"}: {}}
	unplugged := twoISPs()
	isp1 := unplugged.kernels[""].Interfaces["isp1"]
	isp1.Up = false
	unplugged.kernels[""].Interfaces["isp1"] = isp1
	const check = "check = { ping = \"192.0.2.1\" }\n"
	for _, tt := range []struct {
		claim, config string
		w             world
		want          []string // default routes in the order of the table
	}{
		{"the kernel's metrics decide", homeRouter + second, twoISPs(),
			[]string{"0.0.0.0/0 via 203.0.113.1 port 2 metric 100", "0.0.0.0/0 via 198.51.100.1 port 3 metric 200"}},
		{"unless the interface has its own", homeRouter + "metric = 7\nweight = 3\n" + second + "metric = 7\nweight = 1\n", twoISPs(),
			[]string{"0.0.0.0/0 via 203.0.113.1 port 2 metric 7 weight 3", "0.0.0.0/0 via 198.51.100.1 port 3 metric 7 weight 1"}},
		{"routes of an uplink that is down are known as such", homeRouter + second + check, down,
			[]string{"0.0.0.0/0 via 203.0.113.1 port 2 metric 100", "0.0.0.0/0 via 198.51.100.1 port 3 metric 200 down"}},
		{"also of one that can be seen to be unplugged", homeRouter + second + check, unplugged,
			[]string{"0.0.0.0/0 via 203.0.113.1 port 2 metric 100", "0.0.0.0/0 via 198.51.100.1 port 3 metric 200 down"}},
		{"not if nobody asked for a check", homeRouter + second, unplugged,
			[]string{"0.0.0.0/0 via 203.0.113.1 port 2 metric 100", "0.0.0.0/0 via 198.51.100.1 port 3 metric 200"}},
		{"a route for some packets takes the router that the interface has, in the order of the file", homeRouter + second +
			"[[route]]\nto = \"0.0.0.0/0\"\nvia = \"next_hop\"\ninterface = \"isp1\"\nfrom = \"192.168.1.7/32\"\n" +
			"[[route]]\nto = \"0.0.0.0/0\"\nvia = \"next_hop\"\ninterface = \"wan0\"\nin_area = \"guest\"\nmark = 5\nmetric = 9\nweight = 2\n", twoISPs(),
			[]string{"0.0.0.0/0 from 192.168.1.7/32 via 198.51.100.1 port 3",
				"0.0.0.0/0 in area 3 mark 0x5/0xffffffff via 203.0.113.1 port 2 metric 9 weight 2",
				"0.0.0.0/0 via 203.0.113.1 port 2 metric 100", "0.0.0.0/0 via 198.51.100.1 port 3 metric 200"}},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			p := mustPlan(t, tt.config, tt.w)
			ids, err := p.assignIDs(nil)
			if err != nil {
				t.Fatal(err)
			}
			table, err := p.table(ids)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range table.Routes() {
				if r.Prefix.Bits() == 0 {
					got = append(got, r.String())
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("default routes\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func TestOnLinkNetworksOfADownUplinkStay(t *testing.T) {
	w := twoISPs()
	w.down = map[key]struct{}{{"", "isp1"}: {}}
	p := mustPlan(t, homeRouter+"[[interface]]\nname = \"isp1\"\narea = \"wan\"\ncheck = { neighbour = true }\n", w)
	for _, r := range p.find(key{"", "isp1"}).routes {
		if r.Down != r.Gateway.IsValid() {
			t.Errorf("route %v", route.Route(r))
		}
	}
}
