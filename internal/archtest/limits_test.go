package archtest

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"example.com/culvert/dataplane"
)

// limit is a row of LIMITS.md.
type limit struct{ what, most, setting, beyond, counted string }

func limits(t *testing.T) (text string, all []limit) {
	t.Helper()
	text = read(t, "LIMITS.md")
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 5 || cells[0] == "---" || strings.TrimSpace(cells[0]) == "what" {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		all = append(all, limit{cells[0], cells[1], cells[2], cells[3], cells[4]})
	}
	if len(all) < 50 {
		t.Fatalf("LIMITS.md has %d rows that can be read, want more", len(all))
	}
	return text, all
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var (
	settingName = regexp.MustCompile("`([a-z]+(?:\\.[a-z_]+)+)`")
	heading     = regexp.MustCompile("(?m)^## `\\[+([a-z.]+)\\]+`$")
	keyName     = regexp.MustCompile("(?m)^- `([a-z_]+)`:")
)

// settings returns section.key of the reference of the configuration.
func settings(t *testing.T) map[string]bool {
	t.Helper()
	text, all := read(t, "rules/config/testdata/reference.md"), map[string]bool{}
	places := heading.FindAllStringSubmatchIndex(text, -1)
	for i, at := range places {
		end := len(text)
		if i+1 < len(places) {
			end = places[i+1][0]
		}
		for _, key := range keyName.FindAllStringSubmatch(text[at[1]:end], -1) {
			all[text[at[2]:at[3]]+"."+key[1]] = true
		}
	}
	return all
}

func TestEachLimitHasASettingThatExistsOrSaysWhyNot(t *testing.T) {
	known := settings(t)
	_, all := limits(t)
	for _, l := range all {
		names := settingName.FindAllStringSubmatch(l.setting, -1)
		if len(names) == 0 && !strings.HasPrefix(l.setting, "fixed") && !strings.HasPrefix(l.setting, "`--") {
			t.Errorf("%s: the setting is %q, want a key, or fixed and why", l.what, l.setting)
		}
		for _, name := range names {
			if !known[name[1]] {
				t.Errorf("%s: there is no setting %s", l.what, name[1])
			}
		}
	}
}

// bounding finds the names of settings that bound something.
var bounding = regexp.MustCompile(`^(limits|helpers|conntrack\.shares)\.|\.(max|max_.*|.*_max|memory|disk|buffer|queue|slots|repeats|icmp_rate|log_rate|flows_per_source|ports_per_client)$`)

func TestEachSettingThatBoundsSomethingIsInTheTable(t *testing.T) {
	text, _ := limits(t)
	// What is bounded by a longest time, not by a number; and what the rows about filter say of other lists.
	others := regexp.MustCompile(`^(pcp\.lifetime_max|conntrack\.tcp_max_retrans|conntrack\.timeouts\..*|(pre|dnat|snat)\.(log_rate|flows_per_source))$`)
	for name := range settings(t) {
		if bounding.MatchString(name) && !others.MatchString(name) && !strings.Contains(text, "`"+name+"`") {
			t.Errorf("LIMITS.md says nothing of %s", name)
		}
	}
}

var (
	metricName = regexp.MustCompile("`(culvert_[a-z_]+)`")
	reasonName = regexp.MustCompile("`reason=\"([a-z-]+)\"`")
)

func TestEachLimitIsCountedByWhatExists(t *testing.T) {
	described := map[string]bool{}
	files, _ := filepath.Glob("../../control/metrics/*.go")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`describe\("(culvert_[a-z_]+)"`).FindAllStringSubmatch(string(text), -1) {
			described[m[1]] = true
		}
	}
	reasons := map[string]bool{}
	for _, r := range dataplane.Reasons() {
		reasons[r.String()] = true
	}
	_, all := limits(t)
	for _, l := range all {
		metrics, drops := metricName.FindAllStringSubmatch(l.counted, -1), reasonName.FindAllStringSubmatch(l.counted, -1)
		told := regexp.MustCompile(`^the (answer|error|stream|log|connecting host)|^nothing is lost$`)
		if len(metrics)+len(drops) == 0 && !told.MatchString(l.counted) {
			t.Errorf("%s: counted as %q, want a metric or a reason, or who is told", l.what, l.counted)
		}
		for _, m := range metrics {
			if !described[m[1]] {
				t.Errorf("%s: there is no metric %s", l.what, m[1])
			}
		}
		for _, m := range drops {
			if !reasons[m[1]] {
				t.Errorf("%s: there is no reason %s", l.what, m[1])
			}
		}
	}
}

func TestEachReasonThatNamesABoundIsInTheTable(t *testing.T) {
	text, _ := limits(t)
	bound := regexp.MustCompile(`full|limit|share|quota|blocks|exhausted|crowded|truncated`)
	for _, r := range dataplane.Reasons() {
		if bound.MatchString(r.String()) && !strings.Contains(text, "`reason=\""+r.String()+"\"`") {
			t.Errorf("LIMITS.md says nothing of packets dropped for %s", r)
		}
	}
}

var (
	fixedNumber = regexp.MustCompile("([0-9,]+)( KiB| MiB)? \\(`([a-z/]+)\\.([A-Za-z]+)`\\)")
	units       = map[string]int64{"": 1, " KiB": 1 << 10, " MiB": 1 << 20}
)

func TestFixedLimitsAreTheNumbersOfTheSource(t *testing.T) {
	_, all := limits(t)
	found := 0
	for _, l := range all {
		for _, m := range fixedNumber.FindAllStringSubmatch(l.most, -1) {
			found++
			n, err := strconv.ParseInt(strings.ReplaceAll(m[1], ",", ""), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			c, ok := constants(t, m[3]).Lookup(m[4]).(*types.Const)
			if !ok {
				t.Errorf("%s: %s has no constant %s", l.what, m[3], m[4])
			} else if got, exact := constant.Int64Val(constant.ToInt(c.Val())); !exact || got != n*units[m[2]] {
				t.Errorf("%s: %s%s, but %s.%s is %v", l.what, m[1], m[2], m[3], m[4], c.Val())
			}
		}
		if strings.HasPrefix(l.setting, "fixed") && !fixedNumber.MatchString(l.most) {
			t.Errorf("%s: a fixed number without the constant that it is", l.what)
		}
	}
	if found < 30 {
		t.Errorf("%d fixed numbers were found, want more", found)
	}
}

// constants returns the package-level names of a package. Imports stay unknown: bounds
// are numbers.
func constants(t *testing.T, dir string) *types.Scope {
	t.Helper()
	fset := token.NewFileSet()
	paths, _ := filepath.Glob(filepath.Join("../..", dir, "*.go"))
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		t.Fatalf("there is no package %s", dir)
	}
	conf := types.Config{Error: func(error) {}, IgnoreFuncBodies: true}
	pkg, _ := conf.Check(dir, fset, files, nil) // errors are those of imports
	return pkg.Scope()
}

// labs are packages that no running gateway uses.
var labs = []string{"test", "cmd/culvert/demo", "dataplane/vnet", "nat/discover", "control/selftest", "alg/algtest", "alg/example", "alg/offline",
	"control/api/apitest", "dataplane/port/internal/nstest", "dataplane/replay", "internal/await", "internal/keep/keeptest"}

// buffered finds channels with room for a constant number of things.
var buffered = regexp.MustCompile(`make\(chan .*, ([A-Za-z]\w*)\)`)

func TestEachBufferedChannelIsInTheTable(t *testing.T) {
	text, _ := limits(t)
	found := 0
	for _, p := range list(t) {
		dir := strings.TrimPrefix(p.ImportPath, module+"/")
		if withinAny(dir, labs) {
			continue
		}
		for _, name := range p.GoFiles {
			source := read(t, filepath.Join(dir, name))
			for _, m := range buffered.FindAllStringSubmatch(source, -1) {
				found++
				if !strings.Contains(text, "`"+dir+"."+m[1]+"`") {
					t.Errorf("%s/%s: LIMITS.md says nothing of a channel with room for %s", dir, name, m[1])
				}
			}
		}
	}
	if found < 6 {
		t.Errorf("%d channels were found, want more", found)
	}
}

// boundName finds the names of constants that bound something.
var boundName = regexp.MustCompile(`^(max|Max|most|Most)[A-Z]|(Room|Kept|Queue|Backlog|Slots|Seats|Keys|Limit|Max|Buf)$`)

// noLimits are constants with such a name that no queue, table, buffer or log has.
var noLimits = map[string]string{
	// Formats and protocols.
	"conntrack.maxRetrans": "a count of the tracker", "conntrack.maxTimeout": "of its field", "conntrack.maxWindow": "of RFC 9293", "conntrack.maxEntries": "of its field",
	"control.maxTAP": "of its frames", "control/api.maxLabel": "of its field", "control/api.maxPath": "of sockaddr_un", "control/api.maxExpectTimeout": "of its field",
	"control/ipfix.MaxMessage": "of RFC 7011", "control/pcapng.maxBlock": "of files that others wrote", "control/pcapng.maxComment": "of the format",
	"control/pcp.maxMessage": "of RFC 6887", "control/upgrade.maxFDs": "of one record of the kernel", "control/upgrade.maxContent": "of memory",
	"dataplane.Kept": "a verdict", "dataplane.FragmentLimit": "a reason", "dataplane.NeighbourQueue": "a reason", "dataplane.maxFrame": "of IP", "dataplane.maxVLAN": "of IEEE 802.1Q",
	"dataplane/frag.Limit": "a verdict", "dataplane/host.dialPortMax": "of a port", "dataplane/host.gsoMax": "of IP", "dataplane/host.hopLimit": "of RFC 4861", "dataplane/host.maxProbes": "of RFC 4861",
	"dataplane/packet.maxError4": "of RFC 1812", "dataplane/packet.maxError6": "of RFC 4443", "dataplane/packet.maxIPPayload": "of IP",
	"dataplane/port/afpacket.bigRoom": "of a frame", "dataplane/port/pcap.maxBlock": "of files that others wrote", "dataplane/port/pcap.maxFrame": "of files that others wrote",
	"nat/ports.noRoom": "an answer", "rules.fLimit": "a field of a condition",
	// Ranges of settings, which the reference of the configuration has.
	"conntrack.maxWorkers": "beyond gateway.workers", "control.maxExpects": "conntrack.expect_max", "dataplane/route.MaxNeighbours": "limits.neighbours",
	"nat/ports.MaxBlocks": "snat.max_blocks", "nat/ports.maxBlockPower": "snat.block_size", "rules.MaxFlowLimit": "filter.flows_per_source", "rules.maxAreas": "rules/config.maxAreas",
	"rules/config.commonLimit": "a default of conntrack.max", "rules/config.leastLimit": "a default of conntrack.max", "rules/config.smallLimit": "a default of conntrack.max",
	"control/api.localRoom": "a default of limits.socket_connections", "dataplane/port/afpacket.defaultSlots": "a default of interface.slots", "rules/config.maxLogText": "filter.log",
	"control/api.mostToken": "api.token_file", "control/snapshot.maxHeader": "part of control/snapshot.Bytes",
	"internal/keep.maxHeader": "of what another gateway wrote",
	// How much work is done, or memory kept, at a time: the rest follows.
	"conntrack.MaxBatch": "packets", "conntrack.chunkSlots": "of a walk", "conntrack.earlyDropSlots": "of a search", "conntrack.maxChunks": "of a walk", "conntrack.maxExamine": "of a walk",
	"conntrack.maxFaults": "of a report of defects", "conntrack.maxShards": "of locks", "control.maxRounds": "then packets stop for the last one", "control/api.maxUpdated": "of a walk",
	"control/kernel.maxDumpAttempts": "then it is tried again later", "dataplane.textKept": "of a cache", "dataplane/frag.maxBuffers": "of a cache", "dataplane/host.maxSlots": "of a record",
	"internal/nearest.maxLength": "of a search", "nat.maxSpans": "all there can be", "nat/ports.maxShards": "of locks", "nat/ports.reserveSlots": "of memory", "nat/ports.sweepSlots": "of a walk",
	"rules.maxExtents": "of an index", "rules.maxRuns": "of an index", "rules/config.maxCompared": "of a search for mistakes",
}

func TestEachConstantThatBoundsSomethingIsInTheTable(t *testing.T) {
	text, _ := limits(t)
	found := map[string]bool{}
	for _, p := range list(t) {
		dir := strings.TrimPrefix(p.ImportPath, module+"/")
		if withinAny(dir, labs) {
			continue
		}
		scope := constants(t, dir)
		for _, name := range scope.Names() {
			c, ok := scope.Lookup(name).(*types.Const)
			if !ok || !boundName.MatchString(name) || constant.ToInt(c.Val()).Kind() != constant.Int {
				continue
			}
			id := dir + "." + name
			found[id] = true
			if why, other := noLimits[id]; !other && !strings.Contains(text, "`"+id+"`") {
				t.Errorf("LIMITS.md says nothing of %s", id)
			} else if other && strings.Contains(text, "`"+id+"`") {
				t.Errorf("%s is in LIMITS.md, but said to be %s", id, why)
			}
		}
	}
	for id := range noLimits {
		if !found[id] {
			t.Errorf("%s is said to bound nothing, and is not there", id)
		}
	}
}

func TestLimitsNameEachThingOnce(t *testing.T) {
	_, all := limits(t)
	for i, l := range all {
		if slices.ContainsFunc(all[:i], func(o limit) bool { return o == l }) {
			t.Errorf("two rows are the same: %+v", l)
		}
	}
}
