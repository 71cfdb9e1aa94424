package selftest

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"example.com/culvert/control/api"
	"example.com/culvert/nat/discover"
	"example.com/culvert/rules/config"
)

const network = `
[[interface]]
name = "lan0"
area = "lan"
addresses = ["10.0.0.1/24", "2001:db8:1::1/64"]

[[interface]]
name = "wan0"
area = "wan"
addresses = ["203.0.113.1/24", "2001:db8:2::1/64"]
next_hop = ["203.0.113.254", "2001:db8:2::ff"]
`

const masquerade = `
[[snat]]
out_area = "wan"
family = "ipv4"
action = "masquerade"
`

func parse(t testing.TB, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("test.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// find returns what discovery reports for each family.
func find(t *testing.T, text string, opts Options) map[string]*discover.Report {
	t.Helper()
	r, err := Run(parse(t, text), opts)
	if err != nil {
		t.Fatal(err)
	}
	reports := make(map[string]*discover.Report)
	for _, report := range r.Reports {
		reports[report.Family] = report
		if len(report.Faults) > 0 {
			t.Errorf("%s: broken packets: %v", report.Family, report.Faults)
		}
	}
	return reports
}

func seconds(n int) discover.Lifetime { return discover.Lifetime(time.Duration(n) * time.Second) }

func TestTimersOfTheProfiles(t *testing.T) {
	for profile, want := range map[string]struct {
		udp, tcp discover.Lifetimes
		icmp     discover.Lifetime
	}{
		"linux": {
			udp:  discover.Lifetimes{Opened: seconds(30), Answered: seconds(30), Lasting: seconds(120)},
			tcp:  discover.Lifetimes{Opened: seconds(120), Answered: seconds(60), Lasting: seconds(5 * 24 * 3600), Closed: seconds(120), Reset: seconds(10)},
			icmp: seconds(30),
		},
		"rfc": {
			udp:  discover.Lifetimes{Opened: seconds(300), Answered: seconds(300), Lasting: seconds(300)},
			tcp:  discover.Lifetimes{Opened: seconds(240), Answered: seconds(240), Lasting: seconds(2*3600 + 4*60), Closed: seconds(240), Reset: seconds(240)},
			icmp: seconds(60),
		},
	} {
		for family, r := range find(t, "conntrack.profile = \""+profile+"\"\n"+network+masquerade, Options{Scope: discover.Times}) {
			if r.UDP.Lifetimes != want.udp || r.TCP.Lifetimes != want.tcp || r.ICMP.Lifetimes.Opened != want.icmp {
				t.Errorf("%s %s: udp %v, tcp %v, icmp %v; want %v, %v, %v", profile, family,
					r.UDP.Lifetimes, r.TCP.Lifetimes, r.ICMP.Lifetimes.Opened, want.udp, want.tcp, want.icmp)
			}
			if want := (discover.Refresh{Outbound: true, Inbound: true}); r.UDP.Refresh != want || r.TCP.Refresh != want {
				t.Errorf("%s %s: refreshed by %v, %v; want %v", profile, family, r.UDP.Refresh, r.TCP.Refresh, want)
			}
		}
	}
}

func TestTimersOfTheConfigurationAreFound(t *testing.T) {
	r := find(t, "conntrack.timeouts = { udp = \"77s\", icmp = \"1234s\" }\n"+network+masquerade, Options{Scope: discover.Times})["ipv4"]
	if got := r.UDP.Lifetimes.Opened; got != seconds(77) {
		t.Errorf("UDP lives %v, want 77 s", got)
	}
	if got := r.ICMP.Lifetimes.Opened; got != seconds(1234) {
		t.Errorf("ICMP lives %v, want 1234 s", got)
	}
}

func TestErrorsFragmentsAndSizesPass(t *testing.T) {
	all := []string{"host unreachable", "port unreachable", "too big", "time exceeded"}
	for family, r := range find(t, network+masquerade, Options{Scope: discover.Basic}) {
		for proto, e := range map[string]discover.Errors{"udp": r.UDP.Errors, "tcp": r.TCP.Errors, "icmp": r.ICMP.Errors} {
			if !slices.Equal(e.Inbound, all) || !slices.Equal(e.FromRouter, all) || !e.Outbound || !e.Survives || e.Unrelated {
				t.Errorf("%s %s: ICMP errors %+v", family, proto, e)
			}
		}
		both := [2]bool{true, true}
		if want := (discover.Fragments{InOrder: both, OutOfOrder: both}); r.Fragments != want {
			t.Errorf("%s: fragments %+v", family, r.Fragments)
		}
		if want := (discover.Sizes{MTU: 1500, Fragmented: family == "ipv4", TimeExceed: true}); r.Sizes != want {
			t.Errorf("%s: sizes %+v, want %+v", family, r.Sizes, want)
		}
		if c := r.Connections; !c.SimultaneousOpen || c.UnsolicitedSYN != discover.SYNSilent || !c.SYNForgotten {
			t.Errorf("%s: connections %+v", family, c)
		}
	}
}

func TestWithoutATranslationTheFilterIsFound(t *testing.T) {
	r := find(t, network+masquerade, Options{Scope: discover.Basic})["ipv6"]
	for _, got := range []discover.Transport{r.UDP, r.TCP} {
		if got.Mapping != discover.Untranslated || got.Filtering != discover.AddressAndPort {
			t.Errorf("mapping %s, filtering %s; want %s, %s", got.Mapping, got.Filtering, discover.Untranslated, discover.AddressAndPort)
		}
	}
}

func TestWhatARuleRefusesDoesNotPass(t *testing.T) {
	r := find(t, network+masquerade+"[[filter]]\nproto = \"udp\"\naction = \"drop\"\n", Options{Scope: discover.Basic})["ipv4"]
	if r.UDP.Mapping != discover.NoTraffic || r.TCP.Mapping != discover.Linux {
		t.Errorf("mapping of udp %s, of tcp %s; want %s, %s", r.UDP.Mapping, r.TCP.Mapping, discover.NoTraffic, discover.Linux)
	}
}

func TestInterfacesAreChosen(t *testing.T) {
	text := network + "[[interface]]\nname = \"dmz0\"\narea = \"guest\"\naddresses = [\"10.1.0.1/24\"]\n" + masquerade
	r, err := Run(parse(t, text), Options{Inside: "dmz0", Scope: discover.Basic})
	if err != nil {
		t.Fatal(err)
	}
	if r.Inside != "dmz0" || r.Outside != "wan0" || len(r.Reports) != 1 || r.Reports[0].UDP.Mapping != discover.Linux {
		t.Errorf("%s to %s, %d reports", r.Inside, r.Outside, len(r.Reports))
	}
}

func TestWhatCannotBeTestedIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		opts Options
		want error
	}{
		"no outside":         {"[[interface]]\nname = \"lan0\"\narea = \"lan\"\naddresses = [\"10.0.0.1/24\"]\n", Options{}, ErrNoPair},
		"unknown interface":  {network, Options{Inside: "lan7"}, ErrNoPair},
		"different families": {"[[interface]]\nname = \"l\"\narea = \"lan\"\naddresses = [\"10.0.0.1/24\"]\n[[interface]]\nname = \"w\"\narea = \"wan\"\naddresses = [\"2001:db8::1/64\"]\n", Options{}, ErrNoPair},
		"too small a prefix": {"[[interface]]\nname = \"l\"\narea = \"lan\"\naddresses = [\"10.0.0.1/30\"]\n[[interface]]\nname = \"w\"\narea = \"wan\"\naddresses = [\"203.0.113.1/24\"]\n", Options{}, ErrRoom},
	} {
		if _, err := Run(parse(t, tt.text), tt.opts); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

func TestUnknownAddressesAreMadeUpAndSaid(t *testing.T) {
	r, err := Run(config.Quick([]string{"lan*"}, []string{"wan0"}), Options{Scope: discover.Basic})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Invented) != 2 || len(r.Reports) != 2 || r.Reports[0].UDP.Mapping != discover.Linux {
		t.Errorf("invented %v, %d reports", r.Invented, len(r.Reports))
	}
}

func TestRunningInterfacesAreTakenAsTheyAre(t *testing.T) {
	quick := config.Quick([]string{"pod*"}, []string{"wan0"})
	c, err := Running(api.Config{Text: quick.Text}, []api.Interface{
		{Name: "pod7", Area: "lan", State: api.StateUp, MTU: 1400, Addresses: []string{"10.7.0.1/24"}},
		{Name: "wan0", Area: "wan", State: api.StateUp, MTU: 1492, Addresses: []string{"198.51.100.2/24"}, NextHops: []string{"198.51.100.1"}},
		{Name: "pod8", Area: "lan", State: api.StateAbsent},
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Run(c, Options{Scope: discover.Basic})
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(r.Inside, r.Outside, r.Invented, len(r.Reports), r.Reports[0].Sizes.MTU)
	if want := "pod7wan0[] 1 1492"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestUnsolicitedSYNsAreDroppedSilently(t *testing.T) {
	for _, profile := range []string{"linux", "rfc"} {
		for family, r := range find(t, "conntrack.profile = \""+profile+"\"\n"+network+masquerade, Options{Scope: discover.Basic}) {
			if c := r.Connections; !c.SimultaneousOpen || c.UnsolicitedSYN != discover.SYNSilent || !c.SYNForgotten {
				t.Errorf("%s %s: %+v", profile, family, c)
			}
		}
	}
}

func TestForwardedPortsAreFoundWithTheirHairpin(t *testing.T) {
	forward := "[[dnat]]\nin_area = \"wan\"\nproto = \"tcp\"\ndport = %s\naction = \"dnat\"\nto = %q\n%s\n"
	text := network + masquerade + fmt.Sprintf(forward, "443", "10.0.0.9:8443", "") + fmt.Sprintf(forward, "[\"7000-7003\"]", "10.0.0.9", "hairpin = false")
	r := find(t, text, Options{Scope: discover.Forwards})["ipv4"]
	target := netip.MustParseAddr("10.0.0.9")
	want := []discover.Forward{
		{First: 443, Last: 443, To: netip.AddrPortFrom(target, 8443), Hairpin: discover.HairpinExternal},
		{First: 7000, Last: 7003, To: netip.AddrPortFrom(target, 7000), Hairpin: discover.NoHairpin},
	}
	if !slices.Equal(r.TCP.Forwards, want) || len(r.UDP.Forwards) != 0 {
		t.Errorf("forwarded %v, %v; want %v and none", r.TCP.Forwards, r.UDP.Forwards, want)
	}
}

func TestDestinationsCanBeExempt(t *testing.T) {
	exempt := "[[snat]]\nout_area = \"wan\"\ndst = [\"198.51.100.0/24\", \"192.0.2.0/24\"]\nproto = \"udp\"\naction = \"none\"\n"
	r := find(t, network+exempt+masquerade, Options{Scope: discover.Basic})["ipv4"]
	if r.UDP.Mapping != discover.Untranslated || r.TCP.Mapping == discover.Untranslated {
		t.Errorf("mapping of udp %s, of tcp %s; want that of udp %s", r.UDP.Mapping, r.TCP.Mapping, discover.Untranslated)
	}
}

func TestQuotasDoNotHideTheBehaviour(t *testing.T) {
	text := "conntrack = { profile = \"rfc\", max = 64 }\n" + network + "[[snat]]\nout_area = \"wan\"\naction = \"masquerade\"\n"
	free := find(t, text, Options{Scope: discover.Times})["ipv4"]
	bound := find(t, text+"ports_per_client = 60\n", Options{Scope: discover.Times})["ipv4"]
	if !reflect.DeepEqual(free, bound) {
		t.Errorf("with a quota\n%+v\nwithout\n%+v", bound, free)
	}
}

func TestSamplesAreSound(t *testing.T) {
	paths, err := filepath.Glob("../../configs/*.toml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	for _, path := range paths {
		c, err := config.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Run(c, Options{Scope: discover.Basic})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		for _, report := range r.Reports {
			if len(report.Faults) > 0 || report.UDP.Mapping == discover.NoTraffic || report.TCP.Mapping == discover.NoTraffic {
				t.Errorf("%s %s: faults %v, mapping %s, %s", path, report.Family, report.Faults, report.UDP.Mapping, report.TCP.Mapping)
			}
		}
	}
}
