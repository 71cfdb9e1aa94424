package dataplane

import (
	"testing"

	"example.com/culvert/dataplane/route"
)

// TestKeptHintsGoWithTheirNeighbours: what a worker keeps of neighbours is never the
// address that another one has, or had.
func TestKeptHintsGoWithTheirNeighbours(t *testing.T) {
	var kept lastHops
	neigh := route.NewNeighbours(1) // slot 1 is everybody's
	here, there := addr("10.0.0.5"), addr("10.0.0.69")
	if kept.at(lanID, &here) != kept.at(lanID, &there) {
		t.Fatal("the test wants two neighbours that are kept in one place")
	}
	find := func() route.Hint {
		h, st, _ := neigh.Find(lanID, here, 0)
		if st != route.Reachable {
			t.Fatalf("the neighbour is %v", st)
		}
		return h
	}
	known := func(want bool) {
		t.Helper()
		if _, ok := kept.known(neigh, lanID, &here); ok != want {
			t.Errorf("the hint is known: %v, want %v", ok, want)
		}
	}
	known(false)
	neigh.Ask(lanID, here, 1, 0)
	neigh.Learn(lanID, here, [6]byte{2, 1}, 0)
	kept.learn(lanID, &here, find())
	known(true)
	if _, ok := kept.known(neigh, lanID, &there); ok {
		t.Error("another neighbour has the hint of this one")
	}
	if _, ok := kept.known(neigh, wanID, &here); ok {
		t.Error("the hint is valid on another port")
	}
	for what, change := range map[string]func(){
		"moved":   func() { neigh.Learn(lanID, here, [6]byte{2, 2}, 1) },
		"invalid": func() { neigh.Invalidate() },
		"failed": func() {
			neigh.Fail(lanID, here)
			neigh.Ask(lanID, here, 1, 1e12)
			neigh.Learn(lanID, here, [6]byte{2, 3}, 2)
		},
		"gone": func() {
			neigh.Forget(lanID)
			neigh.Ask(lanID, here, 1, 1e12)
			neigh.Learn(lanID, here, [6]byte{2, 4}, 2)
		},
	} {
		change()
		t.Log(what)
		known(false)
		kept.learn(lanID, &here, find())
		known(true)
	}
}
