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

// parse reads a configuration that the test states.
func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("test.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// router is a kernel with an inside and an outside interface, two veths and a
// default route.
func router() world {
	prefix := netip.MustParsePrefix
	return world{kernels: map[string]kernel.Snapshot{"": {
		Interfaces: map[string]kernel.Interface{
			"lan0":  {Name: "lan0", Index: 2, MTU: 1500, Up: true, Addresses: []netip.Prefix{prefix("192.168.1.1/24")}},
			"wan0":  {Name: "wan0", Index: 3, MTU: 1500, Up: true, Addresses: []netip.Prefix{prefix("203.0.113.2/24"), prefix("2001:db8::2/64")}},
			"veth1": {Name: "veth1", Index: 4, MTU: 1500, Up: true},
			"veth2": {Name: "veth2", Index: 5, MTU: 1500},
		},
		Routes: []kernel.Route{
			{Prefix: prefix("0.0.0.0/0"), Via: netip.MustParseAddr("203.0.113.1"), Index: 3, Metric: 100},
			{Prefix: prefix("192.168.1.0/24"), Index: 2},
			{Prefix: prefix("203.0.113.0/24"), Index: 3},
		},
	}}}
}

const homeRouter = `
[[interface]]
name = "lan0"
area = "lan"

[[interface]]
name = "wan0"
area = "wan"
`

func mustPlan(t *testing.T, text string, w world) *plan {
	t.Helper()
	p, err := makePlan(parse(t, text), nil, w)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func names(p *plan) (all []string) {
	for _, l := range p.links {
		all = append(all, l.name)
	}
	return all
}

func TestPlanMatchesInterfaces(t *testing.T) {
	for _, tt := range []struct {
		claim, config string
		change        func(*world)
		want, absent  []string
	}{
		{"full names are served in the order of the file", homeRouter, nil, []string{"lan0", "wan0"}, nil},
		{"an interface that is not there is absent", homeRouter,
			func(w *world) { delete(w.kernels[""].Interfaces, "wan0") }, []string{"lan0"}, []string{"wan0"}},
		{"a pattern takes all that it fits",
			homeRouter + "[[interface]]\nname = \"veth*\"\narea = \"guest\"\n", nil,
			[]string{"lan0", "wan0", "veth1", "veth2"}, nil},
		{"a pattern takes nothing that has a name of its own",
			"[[interface]]\nname = \"veth*\"\narea = \"guest\"\n[[interface]]\nname = \"veth2\"\narea = \"lan\"\n", nil,
			[]string{"veth2", "veth1"}, nil},
		{"a pattern that fits nothing is no fault",
			homeRouter + "[[interface]]\nname = \"ppp*\"\narea = \"wan\"\n", nil, []string{"lan0", "wan0"}, nil},
		{"a pattern takes no TAP to the kernel",
			"[[interface]]\nname = \"*\"\narea = \"lan\"\n",
			func(w *world) {
				w.kernels[""].Interfaces["culvert2"] = kernel.Interface{Name: "culvert2", Index: 6}
				w.kernels[""].Interfaces["culvert-a"] = kernel.Interface{Name: "culvert-a", Index: 7}
			},
			[]string{"culvert-a", "lan0", "veth1", "veth2", "wan0"}, nil},
		{"what was removed at run time stays out", homeRouter,
			func(w *world) { w.excluded = map[key]struct{}{{"", "lan0"}: {}} }, []string{"wan0"}, nil},
		{"a TUN device need not be there before",
			homeRouter + "[[interface]]\nname = \"tun0\"\narea = \"guest\"\ndriver = \"tun\"\naddresses = [\"10.9.0.1/24\"]\n", nil,
			[]string{"lan0", "wan0", "tun0"}, nil},
		{"a VLAN waits for its parent",
			homeRouter + "[[interface]]\nname = \"wan0.7\"\narea = \"guest\"\nparent = \"wan0\"\nvlan = 7\naddresses = [\"10.9.0.1/24\"]\n",
			func(w *world) { delete(w.kernels[""].Interfaces, "wan0") },
			[]string{"lan0"}, []string{"wan0", "wan0.7"}},
	} {
		w := router()
		if tt.change != nil {
			tt.change(&w)
		}
		p := mustPlan(t, tt.config, w)
		if got := names(p); !slices.Equal(got, tt.want) {
			t.Errorf("%s: serves %v, want %v", tt.claim, got, tt.want)
		}
		if !slices.Equal(p.absent, tt.absent) {
			t.Errorf("%s: absent %v, want %v", tt.claim, p.absent, tt.absent)
		}
	}
}

func TestPlanRoutes(t *testing.T) {
	ids := map[key]uint16{{"", "lan0"}: 1, {"", "wan0"}: 2}
	hop := func(prefix, via string, port uint16, metric uint32) route.Route {
		r := route.Route{Prefix: netip.MustParsePrefix(prefix), Port: port, Metric: metric}
		if via != "" {
			r.Gateway = netip.MustParseAddr(via)
		}
		return r
	}
	for _, tt := range []struct {
		claim, config string
		want          []string
	}{
		{"the kernel's routes of served interfaces are taken", homeRouter, []string{
			hop("203.0.113.0/24", "", 2, 0).String(),
			hop("192.168.1.0/24", "", 1, 0).String(),
			hop("0.0.0.0/0", "203.0.113.1", 2, 100).String(),
		}},
		{"a configured next hop replaces the kernel's of its family", homeRouter + "next_hop = [\"203.0.113.7\"]\n", []string{
			hop("203.0.113.0/24", "", 2, 0).String(),
			hop("192.168.1.0/24", "", 1, 0).String(),
			hop("0.0.0.0/0", "203.0.113.7", 2, 0).String(),
		}},
		{"static addresses bring their prefixes and nothing of the kernel's",
			"[[interface]]\nname = \"lan0\"\narea = \"lan\"\naddresses = [\"10.1.0.1/16\"]\n[[interface]]\nname = \"wan0\"\narea = \"wan\"\naddresses = [\"198.51.100.2/24\"]\n",
			[]string{
				hop("198.51.100.0/24", "", 2, 0).String(),
				hop("10.1.0.0/16", "", 1, 0).String(),
			}},
		{"a static route leaves by the interface that has its next hop on the link",
			homeRouter + "[[route]]\nto = \"10.8.0.0/16\"\nvia = \"192.168.1.254\"\n", []string{
				hop("203.0.113.0/24", "", 2, 0).String(),
				hop("192.168.1.0/24", "", 1, 0).String(),
				hop("10.8.0.0/16", "192.168.1.254", 1, 0).String(),
				hop("0.0.0.0/0", "203.0.113.1", 2, 100).String(),
			}},
	} {
		p := mustPlan(t, tt.config, router())
		table, err := p.table(ids)
		if err != nil {
			t.Errorf("%s: %v", tt.claim, err)
			continue
		}
		var got []string
		for _, r := range table.Routes() {
			got = append(got, r.String())
		}
		slices.Sort(got)
		slices.Sort(tt.want)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: routes\n%s\nwant\n%s", tt.claim, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
		}
	}
}

func TestRouteWithNextHopOnNoLinkIsRefused(t *testing.T) {
	cfg := parse(t, homeRouter)
	cfg.Routes = []config.Route{{To: netip.MustParsePrefix("10.8.0.0/16"), Via: netip.MustParseAddr("172.16.0.1")}}
	if _, err := makePlan(cfg, nil, router()); err == nil || !strings.Contains(err.Error(), "172.16.0.1") {
		t.Errorf("plan: %v, want an error that names the next hop", err)
	}
}

func TestPortIndexesStayAndAreReused(t *testing.T) {
	p := mustPlan(t, homeRouter+"[[interface]]\nname = \"veth*\"\narea = \"guest\"\n", router())
	old := map[key]uint16{{"", "wan0"}: 1, {"", "gone0"}: 2, {"", "veth2"}: 7}
	got, err := p.assignIDs(old)
	if err != nil {
		t.Fatal(err)
	}
	want := map[key]uint16{{"", "wan0"}: 1, {"", "lan0"}: 2, {"", "veth1"}: 3, {"", "veth2"}: 7}
	for k, id := range want {
		if got[k] != id {
			t.Errorf("index of %v is %d, want %d", k, got[k], id)
		}
	}
	if len(got) != len(want) {
		t.Errorf("indexes %v, want %v", got, want)
	}
}

func TestProxiedAddresses(t *testing.T) {
	for _, tt := range []struct {
		claim, rules, link string
		want               []string
	}{
		{"the destination of a dnat rule is answered for on its link",
			"[[dnat]]\naction = \"dnat\"\nin_area = \"wan\"\ndst = \"203.0.113.80\"\nto = \"192.168.1.80\"\n", "wan0", []string{"203.0.113.80"}},
		{"but not on other links",
			"[[dnat]]\naction = \"dnat\"\nin_area = \"wan\"\ndst = \"203.0.113.80\"\nto = \"192.168.1.80\"\n", "lan0", nil},
		{"a pool is answered for, without the gateway's own address and the router's",
			"[[snat]]\nout_area = \"wan\"\naction = \"snat\"\nto = \"203.0.113.1-203.0.113.3\"\n", "wan0", []string{"203.0.113.3"}},
		{"a pool that is not on the link is not",
			"[[snat]]\nout_area = \"wan\"\naction = \"snat\"\nto = \"198.51.100.0/28\"\n", "wan0", nil},
		{"a real host that a rule translates to keeps its address",
			"[[dnat]]\naction = \"dnat\"\nin_area = \"lan\"\ndst = \"192.168.1.80\"\nproto = \"tcp\"\ndport = 80\nto = \"192.168.1.80:8080\"\n", "lan0", nil},
		{"keys of a map count, and its targets do not",
			"[[dnat]]\naction = \"dnat\"\nin_area = \"wan\"\nmap = { \"203.0.113.80\" = \"192.168.1.80\", \"203.0.113.81\" = \"203.0.113.82\" }\n", "wan0", []string{"203.0.113.80", "203.0.113.81"}},
		{"targets of a source map count",
			"[[snat]]\naction = \"snat\"\nout_area = \"wan\"\nmap = { \"192.168.1.80\" = \"203.0.113.80\", \"192.168.1.8/31\" = \"203.0.113.82/31\" }\n", "wan0",
			[]string{"203.0.113.80", "203.0.113.82", "203.0.113.83"}},
		{"the outside of netmap counts in both lists",
			"[[dnat]]\naction = \"netmap\"\nin_area = \"wan\"\ndst = \"203.0.113.80/31\"\nto = \"192.168.1.80/31\"\n" +
				"[[snat]]\naction = \"netmap\"\nout_area = \"wan\"\nsrc = \"192.168.1.82/31\"\nto = \"203.0.113.82/31\"\n", "wan0",
			[]string{"203.0.113.80", "203.0.113.81", "203.0.113.82", "203.0.113.83"}},
		{"hosts of a balanced set keep theirs",
			"[[dnat]]\naction = \"dnat\"\nin_area = \"lan\"\ndst = \"192.168.1.80-192.168.1.82\"\nbalance = [{ to = \"192.168.1.80\" }, { to = \"192.168.1.81\" }]\n", "lan0",
			[]string{"192.168.1.82"}},
		{"the source of twice-NAT counts",
			"[[dnat]]\naction = \"dnat\"\nin_area = \"wan\"\ndst = \"203.0.113.80\"\nto = \"192.168.1.80\"\nsource = \"192.168.1.200\"\n", "lan0", []string{"192.168.1.200"}},
		{"a netmap of the whole link leaves the router, the network and broadcast alone",
			"[[dnat]]\naction = \"netmap\"\nin_area = \"wan\"\ndst = \"203.0.113.0/29\"\nto = \"192.168.1.0/29\"\n" +
				"[[dnat]]\naction = \"netmap\"\nin_area = \"wan\"\ndst = \"203.0.113.248/29\"\nto = \"192.168.1.8/29\"\n", "wan0",
			[]string{"203.0.113.3", "203.0.113.4", "203.0.113.5", "203.0.113.6", "203.0.113.7",
				"203.0.113.248", "203.0.113.249", "203.0.113.250", "203.0.113.251", "203.0.113.252", "203.0.113.253", "203.0.113.254"}},
		{"a rule for another area does not count",
			"[[dnat]]\naction = \"dnat\"\nin_area = \"guest\"\ndst = \"203.0.113.80\"\nto = \"192.168.1.80\"\n", "wan0", nil},
	} {
		p := mustPlan(t, homeRouter+tt.rules, router())
		got, truncated := p.proxied(p.find(key{"", tt.link}))
		if !slices.Equal(texts(got), tt.want) && len(got)+len(tt.want) > 0 {
			t.Errorf("%s: %v, want %v", tt.claim, got, tt.want)
		}
		if truncated != 0 {
			t.Errorf("%s: %d addresses left out", tt.claim, truncated)
		}
	}
}

func TestHugePoolIsLeftOutAndCounted(t *testing.T) {
	w := router()
	wan := w.kernels[""].Interfaces["wan0"]
	wan.Addresses = []netip.Prefix{netip.MustParsePrefix("2001:db8::2/64")}
	w.kernels[""].Interfaces["wan0"] = wan
	p := mustPlan(t, homeRouter+"[[dnat]]\naction = \"dnat\"\nin_area = \"wan\"\ndst = \"2001:db8::/64\"\nto = \"fd00::80\"\n", w)
	got, truncated := p.proxied(p.find(key{"", "wan0"}))
	if len(got) != 0 || truncated == 0 {
		t.Errorf("a /64 gives %d addresses, %d left out; want none and a count", len(got), truncated)
	}
}
