package netns

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// TB is what ForTest needs of a testing.TB. (Programs use this package too and
// shall not link package testing.)
type TB interface {
	Helper()
	Context() context.Context
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
}

// ForTest builds a lab for a test and closes it when the test ends, panics
// included. A lab that cannot be built or cleaned up fails the test.
func ForTest(t TB, topology Topology) *Lab {
	t.Helper()
	if topology.Log == nil {
		topology.Log = t.Logf
	}
	lab, err := Build(t.Context(), topology)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if gw := lab.Gateway(); t.Failed() && gw != nil && gw.Process() != nil {
			t.Logf("the gateway wrote:\n%s", gw.Process().Output())
		}
		if err := lab.Close(); err != nil {
			t.Errorf("close lab: %v", err)
		}
	})
	return lab
}

// KindEnv limits Kinds to one: "culvert" or "kernel".
const KindEnv = "GATEWAY"

// Kinds returns the kinds of gateway that a scenario is to run with: both, the
// kernel first, so that it proves the scenario.
//
//	for _, kind := range netns.Kinds() {
//		t.Run("gateway="+kind.String(), func(t *testing.T) { ... })
//	}
//
// An unknown name in KindEnv panics.
func Kinds() []Kind {
	kinds := []Kind{Kernel, Culvert}
	only := os.Getenv(KindEnv)
	if only == "" {
		return kinds
	}
	for _, k := range kinds {
		if strings.EqualFold(only, k.String()) {
			return []Kind{k}
		}
	}
	panic(fmt.Sprintf("netns: %s=%s: use culvert or kernel", KindEnv, only))
}
