//go:build netns

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/culvert/test/netns"
)

// judged is one kind of rule in both languages, about datagrams to a port of its
// own. The packets of its probes that the kernel lets pass are those that Culvert
// has to.
type judged struct {
	claim string
	toml  string // PORT stands for the port
	nft   string // of the forward chain
	raw   string // of the kernel's chain before tracking
	probe []probe
	want  []string // payloads of probes that pass; nil: what the kernel does is right
}

// probe is a datagram from inside; its payload is its name, filled up to size bytes.
type probe struct {
	name string
	from func(f *family) netip.Addr
	size int
	port uint16 // added to the source port
}

func fromFirst(f *family) netip.Addr  { return f.first }
func fromSecond(f *family) netip.Addr { return f.second }

// repeated is n probes from each of some sources.
func repeated(n int, from map[string]func(*family) netip.Addr) (all []probe) {
	for _, name := range slices.Sorted(maps.Keys(from)) {
		for i := range n {
			all = append(all, probe{name: fmt.Sprintf("%s%d", name, i), from: from[name]})
		}
	}
	return all
}

var (
	anyOf    = map[string]func(*family) netip.Addr{"a": fromFirst, "b": fromSecond}
	oneHost  = map[string]func(*family) netip.Addr{"a": fromFirst}
	sizes    = []probe{{name: "small", from: fromFirst, size: 50}, {name: "medium", from: fromFirst, size: 200}, {name: "large", from: fromFirst, size: 1200}}
	twoHosts = []probe{{name: "a", from: fromFirst}, {name: "b", from: fromSecond}}
)

// flowsOf is the same with a flow for each. They are named after their host alone:
// workers take flows side by side, and any of them may be the first ones.
func flowsOf(n int, from map[string]func(*family) netip.Addr) []probe {
	all := repeated(n, from)
	for i := range all {
		all[i].port = uint16(i)
		all[i].name = strings.TrimRight(all[i].name, "0123456789")
	}
	return all
}

const ruleSets = `
[[set]]
name = "bad"
elements = ["10.1.0.11", "192.0.2.0/24", "fd00:1::11"]

[[set]]
name = "few"
type = "ports"
elements = [7303, "7304-7305"]

[[set]]
name = "inner"
type = "interfaces"
elements = "lan0"
`

const nftSets = `
	set bad4 { type ipv4_addr; flags interval; elements = { 10.1.0.11, 192.0.2.0/24 } }
	set bad6 { type ipv6_addr; flags interval; elements = { fd00:1::11 } }
	set few { type inet_service; flags interval; elements = { 7303, 7304-7305 } }
	set slow4 { type ipv4_addr; flags dynamic; }
	set slow6 { type ipv6_addr; flags dynamic; }
	set many4 { type ipv4_addr; flags dynamic; }
`

// judgements are the rules of one house.
func judgements(now time.Time) []judged {
	now = now.UTC()
	today, tomorrow := now.Weekday(), (now.Weekday()+1)%7
	short := func(d time.Weekday) string { return strings.ToLower(d.String()[:3]) }
	from, until := now.Add(-2*time.Hour).Format("15:04"), now.Add(2*time.Hour).Format("15:04")
	return []judged{
		{claim: "a set of addresses", toml: `src = "@bad"` + drop, nft: "ip saddr @bad4 udp dport PORT drop\nip6 saddr @bad6 udp dport PORT drop", probe: twoHosts, want: []string{"b"}},
		{claim: "all but a set", toml: `src = "!@bad"` + drop, nft: "ip saddr != @bad4 udp dport PORT drop\nip6 saddr != @bad6 udp dport PORT drop", probe: twoHosts, want: []string{"a"}},
		{claim: "a set of interfaces", toml: `iif = "@inner"` + drop, nft: "iifname { lan0 } udp dport PORT drop", probe: twoHosts, want: []string{}},
		{claim: "all but an address", toml: `src = ["!10.1.0.12", "!fd00:1::12"]` + drop, nft: "ip saddr != 10.1.0.12 udp dport PORT drop\nip6 saddr != fd00:1::12 udp dport PORT drop", probe: twoHosts, want: []string{"b"}},
		{claim: "a limit drops the excess", toml: "limit = \"!1/h\"\nburst = 6" + drop, nft: "udp dport PORT limit rate over 1/hour burst 6 packets drop", probe: repeated(9, oneHost)},
		{claim: "a limit accepts what is within", toml: "limit = \"1/h\"\nburst = 6\naction = \"accept\"\n[[filter]]\nproto = \"udp\"\ndport = PORT\nlimit = \"!1/d\"\nburst = 1" + drop,
			nft:   "udp dport PORT limit rate 1/hour burst 6 packets accept\nudp dport PORT limit rate over 1/day burst 1 packets drop",
			probe: repeated(9, oneHost)},
		{claim: "a limit for each source", toml: "limit = \"!1/h\"\nburst = 2\nper = \"source\"" + drop + only("ipv4"),
			nft:   "udp dport PORT add @slow4 { ip saddr limit rate over 1/hour burst 2 packets } drop",
			probe: repeated(4, anyOf)},
		{claim: "flows of each source", toml: `flows_per_source = "!2"` + drop + only("ipv4"),
			nft:   "udp dport PORT add @many4 { ip saddr ct count over 2 } drop",
			probe: flowsOf(4, anyOf)},
		{claim: "length", toml: `length = "129-1000"` + drop, nft: "udp dport PORT meta length 129-1000 drop",
			probe: sizes, want: []string{"large", "small"}},
		{claim: "all but a length", toml: `length = "!129-1000"` + drop, nft: "udp dport PORT meta length != 129-1000 drop",
			probe: sizes, want: []string{"medium"}},
		{claim: "the hours around now", toml: fmt.Sprintf("hours = \"%s-%s\"\ntimezone = \"UTC\"", from, until) + drop, nft: fmt.Sprintf("udp dport PORT meta hour \"%s\"-\"%s\" drop", from, until), probe: twoHosts, want: []string{}},
		{claim: "all hours but these", toml: fmt.Sprintf("hours = \"!%s-%s\"\ntimezone = \"UTC\"", from, until) + drop, nft: fmt.Sprintf("udp dport PORT meta hour != \"%s\"-\"%s\" drop", from, until), probe: twoHosts, want: []string{"a", "b"}},
		{claim: "today", toml: fmt.Sprintf("weekdays = %q\ntimezone = \"UTC\"", short(today)) + drop, nft: fmt.Sprintf("udp dport PORT meta day %q drop", today), probe: twoHosts, want: []string{}},
		{claim: "tomorrow", toml: fmt.Sprintf("weekdays = %q\ntimezone = \"UTC\"", short(tomorrow)) + drop, nft: fmt.Sprintf("udp dport PORT meta day %q drop", tomorrow), probe: twoHosts, want: []string{"a", "b"}},
		{claim: "a mark of the packet from before", toml: `mark = "0x9/0xf"` + drop + "[[pre]]\nproto = \"udp\"\ndport = PORT\nsrc = \"@bad\"\naction = \"mark\"\nset_packet_mark = \"0x9/0xf\"\n",
			raw: "ip saddr @bad4 udp dport PORT meta mark set 9\nip6 saddr @bad6 udp dport PORT meta mark set 9", nft: "udp dport PORT meta mark 9 drop", probe: twoHosts, want: []string{"b"}},
		{claim: "a log line does not decide", toml: "action = \"log\"\nlog = \"seen\"\n", nft: "udp dport PORT log prefix \"seen\"", probe: twoHosts, want: []string{"a", "b"}},
		{claim: "packets without tracking leave as they are", toml: "state = \"untracked\"\nsrc = \"@bad\"" + drop + "[[pre]]\nproto = \"udp\"\ndport = PORT\naction = \"notrack\"\n",
			raw: "udp dport PORT notrack", nft: "ct state untracked ip saddr @bad4 udp dport PORT drop\nct state untracked ip6 saddr @bad6 udp dport PORT drop", probe: twoHosts, want: []string{"b"}},
	}
}

const drop = "\naction = \"drop\"\n"

// only keeps the rule before it to a family, for what nft says of one alone.
func only(family string) string { return "family = \"" + family + "\"\n" }

// judgedPort is where the probes of a judgement go.
func judgedPort(i int) uint16 { return uint16(7200 + i) }

func judgedSetup(all []judged) setup {
	s := setup{config: ruleSets, objects: nftSets}
	for i, j := range all {
		port := fmt.Sprint(judgedPort(i))
		s.config += strings.ReplaceAll("[[filter]]\nname = \"rule"+port+"\"\nproto = \"udp\"\ndport = PORT\n"+j.toml, "PORT", port)
		s.forward += strings.ReplaceAll(j.nft+"\n", "PORT", port)
		s.raw += strings.ReplaceAll(j.raw+"\n", "PORT", port)
	}
	return s
}

// TestRulesJudgeAsTheKernelsDo sends probes through rules of both and compares
// what comes out, packet by packet.
func TestRulesJudgeAsTheKernelsDo(t *testing.T) {
	all := judgements(time.Now())
	passed := map[string]map[netns.Kind][]string{} // by family and claim
	eachGateway(t, judgedSetup(all), func(t *testing.T, h *house) {
		for _, f := range families {
			serveUDP(t, h.server, at(f.server, markerPort))
		}
		h.mark(t)
		c := capture(t, h.server, "eth0")
		for _, f := range families {
			for i, j := range all {
				for _, p := range j.probe {
					from, to := at(p.from(f), 30000+p.port), at(f.server, judgedPort(i))
					payload := []byte(p.name + strings.Repeat(" ", max(p.size-len(p.name), 0)))
					sendRaw(t, h.first, f.server, fragment{data: udpDatagram(t, from, to, payload)}.packet(from.Addr(), f.server, 1))
				}
			}
		}
		h.mark(t)
		must(t, c.Close())
		for _, f := range families {
			for i, j := range all {
				var got []string
				for _, g := range c.Frames() {
					if u := g.UDP(); !g.Outgoing && u != nil && uint16(u.DstPort) == judgedPort(i) && sourceOf(g).Is4() == f.is4() {
						got = append(got, strings.TrimSpace(string(u.Payload)))
					}
				}
				slices.Sort(got)
				key := f.name + ": " + j.claim
				if passed[key] == nil {
					passed[key] = map[netns.Kind][]string{}
				}
				passed[key][h.gw.Kind()] = got
				if j.want != nil && !slices.Equal(got, j.want) {
					t.Errorf("%s: %q pass, want %q", key, got, j.want)
				}
			}
		}
	})
	for key, by := range passed {
		if kernel, ours := by[netns.Kernel], by[netns.Culvert]; len(by) == 2 && !slices.Equal(kernel, ours) {
			t.Errorf("%s: the kernel lets %q pass, Culvert %q", key, kernel, ours)
		}
	}
}

// TestRejectionsAreHeardAsTheKernelsAre compares what a program sees when a rule
// rejects its packets.
func TestRejectionsAreHeardAsTheKernelsAre(t *testing.T) {
	kinds := []string{"no-route", "host-unreachable", "port-unreachable", "admin-prohibited"}
	s := setup{config: `
[[filter]]
proto = "tcp"
dport = 7399
action = "reject"
reject_with = "tcp-reset"
`, forward: "tcp dport 7399 reject with tcp reset\n"}
	for i, kind := range kinds {
		s.config += fmt.Sprintf("[[filter]]\ndport = %d\naction = \"reject\"\nreject_with = %q\n", 7400+i, kind)
		s.forward += fmt.Sprintf("th dport %d reject with icmpx type %s\n", 7400+i, kind)
	}
	heard := map[string]map[netns.Kind]error{}
	hear := func(h *house, key string, err error) {
		var errno syscall.Errno
		errors.As(err, &errno)
		if heard[key] == nil {
			heard[key] = map[netns.Kind]error{}
		}
		heard[key][h.gw.Kind()] = errno
	}
	eachGateway(t, s, func(t *testing.T, h *house) {
		for _, f := range families {
			_, err := h.first.DialFrom(t.Context(), &net.TCPAddr{IP: f.first.AsSlice()}, "tcp", at(f.server, 7399).String())
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s: a reset is heard as %v, want connection refused", f.name, err)
			}
			for i, kind := range kinds {
				to := at(f.server, uint16(7400+i))
				d := connectUDP(t, h.first, at(f.first, 0), to)
				d.hearEverything(t)
				_, err := d.Write([]byte("may I?"))
				must(t, err)
				hear(h, f.name+" udp "+kind, d.readError(t))
				_, err = h.first.DialFrom(t.Context(), &net.TCPAddr{IP: f.first.AsSlice()}, "tcp", to.String())
				hear(h, f.name+" tcp "+kind, err)
			}
		}
	})
	for key, by := range heard {
		if kernel, ours := by[netns.Kernel], by[netns.Culvert]; len(by) == 2 && kernel != ours || ours == syscall.Errno(0) {
			t.Errorf("%s: the kernel's is heard as %v, Culvert's as %v", key, kernel, ours)
		}
	}
}

// TestFlowsOfRulesAreTheKernels compares marks, zones and counters.
func TestFlowsOfRulesAreTheKernels(t *testing.T) {
	s := setup{
		config: `
[[pre]]
proto = "udp"
dport = 7501
action = "zone"
set_zone = 7

[[pre]]
proto = "udp"
sport = 7501
action = "zone"
set_zone = 7

[[pre]]
proto = "udp"
dport = 7502
action = "zone"
set_zone = 8
zone_direction = "original"

[[filter]]
proto = "udp"
dport = 7500
action = "accept"
set_mark = "0x15/0xff"

[[filter]]
proto = "udp"
dport = 7503
action = "count"
count = "seen"

[[filter]]
proto = "udp"
sport = 7503
action = "count"
count = "seen"
`,
		objects: "counter seen {}\n",
		raw:     "udp dport 7501 ct zone set 7\nudp sport 7501 ct zone set 7\nudp dport 7502 ct original zone set 8\n",
		forward: "udp dport 7500 ct mark set 0x15 accept\nudp dport 7503 counter name seen\nudp sport 7503 counter name seen\n",
	}
	seen := map[netns.Kind]traffic{}
	eachGateway(t, s, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			for port, line := range map[uint16]string{
				7500: "udp 17 29 src=%v dst=%v sport=30000 dport=7500 src=%v dst=%v sport=7500 dport=30000 mark=21 use=1",
				7501: "udp 17 29 src=%v dst=%v sport=30000 dport=7501 src=%v dst=%v sport=7501 dport=30000 mark=0 zone=7 use=1",
				7502: "udp 17 29 src=%v dst=%v sport=30000 dport=7502 zone-orig=8 src=%v dst=%v sport=7502 dport=30000 mark=0 use=1",
				7503: "udp 17 29 src=%v dst=%v sport=30000 dport=7503 src=%v dst=%v sport=7503 dport=30000 mark=0 use=1",
			} {
				serveUDP(t, h.server, at(f.server, port))
				d := bindUDP(t, h.first, at(f.first, 30000))
				for range 3 {
					d.ask(t, at(f.server, port), "a question")
				}
				must(t, d.Close())
				h.wantFlow(t, fmt.Sprintf(line, f.first, f.server, f.server, f.outside))
			}
		})
		seen[h.gw.Kind()] = h.counter(t, "seen")
	})
	kernel, ours := seen[netns.Kernel], seen[netns.Culvert]
	if len(seen) == 2 && kernel != ours || ours.Packets != 12 {
		t.Errorf("the kernel counts %+v, Culvert %+v; want 12 packets", kernel, ours)
	}
}

// traffic is what a counter has counted.
type traffic struct{ Packets, Bytes int }

// counter reads a counter that rules name.
func (h *house) counter(t *testing.T, name string) traffic {
	t.Helper()
	if h.gw.Kind() == netns.Kernel {
		out, err := h.Host("gateway").Exec(t.Context(), "nft", "-j", "list", "counter", "inet", "house", name)
		must(t, err)
		var all struct {
			Nftables []struct {
				Counter *traffic
			}
		}
		must(t, json.Unmarshal([]byte(out), &all))
		for _, o := range all.Nftables {
			if o.Counter != nil {
				return *o.Counter
			}
		}
		t.Fatalf("no counter in %s", out)
	}
	out, err := h.gw.Ctl(t.Context(), "rules", "--counters", "-o", "json")
	must(t, err)
	var all []struct {
		Name string
		traffic
	}
	must(t, json.Unmarshal([]byte(out), &all))
	for _, c := range all {
		if c.Name == name {
			return c.traffic
		}
	}
	t.Fatalf("no counter %s in %s", name, out)
	return traffic{}
}
