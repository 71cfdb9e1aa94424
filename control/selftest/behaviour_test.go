package selftest

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"example.com/culvert/nat/discover"
	"example.com/culvert/rules/config"
)

// behaviours are what rules can ask for: rules and discovery call them alike.
var behaviours = []discover.Dependence{discover.Endpoint, discover.Address, discover.AddressAndPort}

// translated returns a network with an outside rule of more keys, for both families.
func translated(t *testing.T, profile, keys string) *config.Config {
	t.Helper()
	return parse(t, "conntrack.profile = \""+profile+"\"\n"+network+"[[snat]]\nout_area = \"wan\"\naction = \"masquerade\"\n"+keys)
}

// behaving returns the keys for a mapping and a filtering.
func behaving(mapping, filtering discover.Dependence) string {
	return fmt.Sprintf("mapping = %q\nfiltering = %q\n", mapping, filtering)
}

// reportsOf runs the discovery on a configuration, the reports by family.
func reportsOf(t *testing.T, c *config.Config, scope discover.Scope) map[string]*discover.Report {
	t.Helper()
	r, err := Run(c, Options{Scope: scope})
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]*discover.Report)
	for _, report := range r.Reports {
		all[report.Family] = report
		if len(report.Faults) > 0 {
			t.Errorf("%s: broken packets: %v", report.Family, report.Faults)
		}
	}
	return all
}

// each returns the two transports of a report by name.
func each(r *discover.Report) map[string]discover.Transport {
	return map[string]discover.Transport{"udp": r.UDP, "tcp": r.TCP}
}

func TestEveryMappingAndFilteringIsFound(t *testing.T) {
	profiles := []string{"rfc", "linux"}
	if testing.Short() {
		profiles = profiles[:1]
	}
	for _, mapping := range behaviours {
		for _, filtering := range behaviours {
			for _, profile := range profiles {
				t.Run(fmt.Sprintf("%s %s %s", mapping, filtering, profile), func(t *testing.T) {
					for family, r := range reportsOf(t, translated(t, profile, behaving(mapping, filtering)), discover.Basic) {
						for proto, got := range each(r) {
							if got.Mapping != mapping || got.Filtering != filtering {
								t.Errorf("%s %s: mapping %s, filtering %s", family, proto, got.Mapping, got.Filtering)
							}
							if mapping == discover.Endpoint && (got.Overload || got.Hairpin != discover.HairpinExternal) {
								t.Errorf("%s %s: overload %v, hairpin %s", family, proto, got.Overload, got.Hairpin)
							}
						}
					}
				})
			}
		}
	}
}

func TestMappingOfNetfilterIsFound(t *testing.T) {
	for _, c := range []*config.Config{translated(t, "linux", ""), translated(t, "rfc", "mapping = \"linux\"\n")} {
		for family, r := range reportsOf(t, c, discover.Basic) {
			for proto, got := range each(r) {
				if got.Mapping != discover.Linux || got.Filtering != discover.AddressAndPort || !got.Overload || got.Hairpin != discover.NoHairpin {
					t.Errorf("%s %s: mapping %s, filtering %s, overload %v, hairpin %s", family, proto, got.Mapping, got.Filtering, got.Overload, got.Hairpin)
				}
			}
		}
	}
}

func TestProtocolsBehaveApart(t *testing.T) {
	other := "[[snat]]\nproto = \"udp\"\nout_area = \"wan\"\naction = \"masquerade\"\n" + behaving(discover.Endpoint, discover.Endpoint) +
		"[[snat]]\nout_area = \"wan\"\naction = \"masquerade\"\n" + behaving(discover.Address, discover.AddressAndPort)
	for family, r := range reportsOf(t, parse(t, network+other), discover.Basic) {
		if r.UDP.Mapping != discover.Endpoint || r.UDP.Filtering != discover.Endpoint {
			t.Errorf("%s udp: mapping %s, filtering %s", family, r.UDP.Mapping, r.UDP.Filtering)
		}
		if r.TCP.Mapping != discover.Address || r.TCP.Filtering != discover.AddressAndPort {
			t.Errorf("%s tcp: mapping %s, filtering %s", family, r.TCP.Mapping, r.TCP.Filtering)
		}
	}
}

// TestSwappedAttributeIsTheOnlyDifference swaps one attribute at a time and wants that
// one, and what follows from it, to be all that reports differ in.
func TestSwappedAttributeIsTheOnlyDifference(t *testing.T) {
	before := reportsOf(t, translated(t, "rfc", ""), discover.Times)
	for _, tt := range []struct {
		swap string
		want []string // what may differ, as JSON names, of UDP and TCP; the first one must
	}{
		{"mapping = \"address-dependent\"", []string{"mapping", "hairpin", "port_overload", "class_kept", "parity_kept", "contiguity_kept", "hold_down_seconds"}},
		{"filtering = \"address-and-port-dependent\"", []string{"filtering"}},
		{"filtering = \"endpoint-independent\"", []string{"filtering"}},
		{"hold_down = \"0s\"", []string{"hold_down_seconds"}},
		{"random = true", []string{"port_preservation", "class_kept", "parity_kept", "contiguity_kept", "hold_down_seconds"}},
	} {
		t.Run(tt.swap, func(t *testing.T) {
			if testing.Short() && tt.want[0] == "hold_down_seconds" {
				return // two minutes of virtual time, packet by packet
			}
			for family, r := range reportsOf(t, translated(t, "rfc", tt.swap+"\n"), discover.Times) {
				for proto, got := range each(r) {
					changed := differences(t, each(before[family])[proto], got)
					unseen := tt.want[0] == "hold_down_seconds" && (proto == "tcp" || family == "ipv6") // not measured; one client
					if !slices.Contains(changed, tt.want[0]) && !unseen {
						t.Errorf("%s %s: %s does not differ", family, proto, tt.want[0])
					}
					for _, name := range changed {
						if !slices.Contains(tt.want, name) {
							t.Errorf("%s %s: %s differs, too", family, proto, name)
						}
					}
				}
			}
		})
	}
}

// differences returns the names of the behaviours in which two differ.
func differences(t *testing.T, a, b discover.Transport) []string {
	t.Helper()
	var fields [2]map[string]any
	for i, x := range []discover.Transport{a, b} {
		text, err := json.Marshal(x)
		if err == nil {
			err = json.Unmarshal(text, &fields[i])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(fields[0])) {
		if !reflect.DeepEqual(fields[0][name], fields[1][name]) {
			names = append(names, name)
		}
	}
	return names
}

func TestPoolingIsFound(t *testing.T) {
	for keys, want := range map[string]discover.Pooling{
		"": discover.Paired, "pooling = \"paired\"\n": discover.Paired, "pooling = \"arbitrary\"\n": discover.Arbitrary,
	} {
		c := parse(t, "conntrack.profile = \"rfc\"\n"+network+"[[snat]]\nout_area = \"wan\"\nfamily = \"ipv4\"\naction = \"snat\"\nto = \"203.0.113.16-203.0.113.19\"\n"+keys)
		for proto, got := range each(reportsOf(t, c, discover.Basic)["ipv4"]) {
			if got.Pooling != want || got.Mapping != discover.Endpoint {
				t.Errorf("%q: %s: pooling %s, want %s; mapping %s", keys, proto, got.Pooling, want, got.Mapping)
			}
		}
	}
}

func TestFreedPortsAreHeldDown(t *testing.T) {
	for keys, want := range map[string]discover.Lifetime{
		"": seconds(119), "hold_down = \"0s\"\n": 0, "hold_down = \"61s\"\n": seconds(60),
	} {
		if got := reportsOf(t, translated(t, "rfc", keys), discover.Times)["ipv4"].UDP.HoldDown; got != want {
			t.Errorf("%q: ports are held for %v, want %v", keys, got, want)
		}
	}
}

// TestRFCProfileMeetsTheRequirements: no verdict is against it.
func TestRFCProfileMeetsTheRequirements(t *testing.T) {
	for family, r := range reportsOf(t, translated(t, "rfc", ""), discover.Times) {
		judged := make(map[int]int)
		for _, l := range r.Lines() {
			for _, v := range l.Verdicts {
				judged[v.RFC]++
				if !v.Complies {
					t.Errorf("%s %s: %s is %s: %v", family, l.Protocol, l.Test, l.Result, v)
				}
			}
		}
		if len(judged) != 5 {
			t.Errorf("%s: verdicts by RFC: %v", family, judged)
		}
	}
}
