package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "example.com/culvert"

// pkg is what go list says about a package.
type pkg struct {
	ImportPath  string
	Dir         string
	Doc         string
	GoFiles     []string
	TestGoFiles []string
	Imports     []string
	Deps        []string // transitive
}

// packages lists the module once. Packages that do not compile are listed too (-e): others report them better.
var packages = sync.OnceValues(func() ([]pkg, error) {
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Doc,GoFiles,TestGoFiles,Imports,Deps", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.Join(err, errors.New(stderr.String()))
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
})

func list(t *testing.T) []pkg {
	t.Helper()
	all, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// within reports whether path is tree or lies below it.
func within(path, tree string) bool {
	return path == tree || strings.HasPrefix(path, tree+"/")
}

func withinAny(path string, trees []string) bool {
	return slices.ContainsFunc(trees, func(tree string) bool { return within(path, tree) })
}

// border forbids the packages of one tree to depend on others, directly or
// through somebody else.
type border struct {
	from      []string // trees
	butNot    []string // trees within from that are free
	forbidden []string // trees
	allowed   []string // trees within forbidden that are fine
	reason    string
}

func ours(paths ...string) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = module + "/" + p
	}
	return out
}

// The order is tuple <- {conntrack, nat, packet} <- {rules, alg} <- dataplane <- control <- cmd.
var borders = []border{
	{
		from: ours("conntrack/tuple"), forbidden: []string{module}, allowed: ours("conntrack/tuple"),
		reason: "tuples are plain values that everybody shares",
	},
	{
		from: ours("conntrack"), forbidden: ours("nat"),
		reason: "conntrack never learns why the two tuples of an entry differ",
	},
	{
		from: ours("conntrack"), forbidden: ours("rules", "alg", "dataplane", "control", "cmd"),
		reason: "conntrack is tables, states and time; it must stay testable without packets",
	},
	{
		from: ours("nat"), forbidden: ours("dataplane"),
		reason: "nat is tuple arithmetic; it must stay testable without packets",
	},
	{
		from: ours("nat"), forbidden: ours("conntrack", "rules", "alg", "control", "cmd"), allowed: ours("conntrack/tuple"),
		reason: "nat proposes tuples; who holds them is conntrack's business",
	},
	{
		from: ours("nat/discover"), forbidden: []string{module}, allowed: ours("nat/discover"),
		reason: "a discovery reads packets only: what it reports is held against what was configured",
	},
	{
		from: ours("dataplane/packet"), forbidden: []string{module}, allowed: ours("conntrack/tuple", "dataplane/packet"),
		reason: "packet is views of bytes; it knows no table and no rule",
	},
	{
		from: ours("rules", "alg"), forbidden: ours("dataplane", "control", "cmd"), allowed: ours("dataplane/packet"),
		reason: "rules and helpers decide on keys and payload; they must run without an engine",
	},
	{
		from: ours("alg"), forbidden: ours("conntrack", "rules"), allowed: ours("conntrack/tuple"),
		reason: "helpers read bytes and name flows; who keeps tables and rules is not their business",
	},
	{
		from: ours("dataplane"), forbidden: ours("control", "cmd"),
		reason: "the data path is driven by control and never asks back",
	},
	{
		from: ours("conntrack", "nat", "rules", "alg", "dataplane"), butNot: ours("rules/config", "dataplane/vnet"),
		forbidden: []string{"github.com/BurntSushi/toml", module + "/rules/config"},
		reason:    "configuration is compiled before the data path sees it",
	},
	{
		from: ours("conntrack", "nat", "rules", "alg", "dataplane"), forbidden: []string{"github.com/prometheus/client_golang"},
		reason: "metrics are collectors over snapshots; the data path only counts",
	},
	{
		from: ours("control"), forbidden: ours("cmd"),
		reason: "a gateway can be embedded without the command",
	},
	{
		from: ours("conntrack", "nat", "rules", "alg", "dataplane", "control"), forbidden: ours("test"),
		reason: "the harness is for tests and the demo",
	},
	{
		from: []string{module}, forbidden: []string{"testing"},
		reason: "package testing does not belong into the binary",
	},
	{
		from: []string{module}, butNot: ours("control/api/apitest"), forbidden: []string{"github.com/santhosh-tekuri/jsonschema", module + "/control/api/apitest"},
		reason: "answers are held against their description in tests",
	},
	{
		from: []string{module}, forbidden: []string{"C", "github.com/google/gopacket/pcap", "github.com/google/gopacket/afpacket"},
		reason: "culvert is one static binary without cgo",
	},
	{
		from: ours("conntrack", "nat", "rules", "dataplane/packet", "dataplane/frag", "dataplane/route"), forbidden: []string{"github.com/google/gopacket"},
		reason: "gopacket allocates for every layer; it is for tests, capture files and traces",
	},
}

func TestBordersHold(t *testing.T) {
	for _, p := range list(t) {
		for _, b := range borders {
			if !withinAny(p.ImportPath, b.from) || withinAny(p.ImportPath, b.butNot) {
				continue
			}
			deps := slices.Concat(p.Deps, p.Imports) // "C" is only among the latter
			slices.Sort(deps)
			for _, dep := range slices.Compact(deps) {
				if !withinAny(dep, b.forbidden) || withinAny(dep, b.allowed) {
					continue
				}
				t.Errorf("%s depends on %s%s: %s", p.ImportPath, dep, via(p, dep), b.reason)
			}
		}
	}
}

// via says how a dependency comes in when it is not a direct one.
func via(p pkg, dep string) string {
	if slices.Contains(p.Imports, dep) {
		return ""
	}
	all, _ := packages()
	for _, q := range all {
		if slices.Contains(p.Imports, q.ImportPath) && slices.Contains(q.Deps, dep) {
			return " through " + q.ImportPath
		}
	}
	return " through another module"
}

// planned trees have their borders before they have code.
var planned []string

// TestBordersNameRealTrees keeps a renamed package from losing its border.
func TestBordersNameRealTrees(t *testing.T) {
	all := list(t)
	exists := func(tree string) bool {
		return slices.ContainsFunc(all, func(p pkg) bool { return within(p.ImportPath, tree) })
	}
	for _, b := range borders {
		for _, trees := range [][]string{b.from, b.butNot, b.forbidden, b.allowed} {
			for _, tree := range trees {
				if within(tree, module) && !exists(tree) && !slices.Contains(planned, tree) {
					t.Errorf("border %q names %s, which does not exist", b.reason, tree)
				}
			}
		}
	}
}
