package dataplane

import (
	"example.com/culvert/conntrack"
	"example.com/culvert/nat/ports"
)

// Layout names how an engine and its table are in Config.Memory: another program reads
// that only if its own layout is the same.
func Layout() string { return conntrack.Layout() + " " + ports.Layout() }

// Remains returns the state of flows that an engine left in the Memory of itself and of
// its table when its process was killed. array returns what was there under a name. cut
// is told, for some of the names, how many bytes have anything in them: the rest is not
// read.
//
// Helpers are for the caller to fill in, and Moved, if anybody else can have passed
// packets of the flows since.
func Remains(array func(name string) ([]byte, error), cut func(name string, size int) error) (*Image, error) {
	table, err := conntrack.ReadRemains(array)
	if err != nil {
		return nil, err
	}
	kept, err := ports.Remains(array)
	if err != nil {
		return nil, err
	}
	if err := table.Cut(cut); err != nil {
		return nil, err
	}
	return &Image{
		Origin: conntrack.Origin{Policies: table.Policies()},
		Flows:  table.Flows, Expects: table.Expects, Kept: kept,
	}, nil
}

// Check verifies the invariants of the table, of the ports in use, and that the flows
// hold what they say they do. Nothing may run meanwhile.
func (e *Engine) Check() []error {
	faults := e.table.Check(tickAt(e.Now()))
	faults = append(faults, e.leases.Check()...)
	return append(faults, e.leases.CheckFlows(func(yield func(*ports.Flow, ports.Use)) {
		add := func(f *conntrack.Flow) bool {
			flow := ports.Of(&f.Tuple[0], &f.Tuple[1], ports.Use(f.Holds))
			yield(&flow, ports.Use(f.Holds))
			return true
		}
		e.table.Dump(add)
		e.table.DumpUnconfirmed(add)
		e.table.DumpExpect(func(x *conntrack.Expect) bool {
			if use := holds(&x.Expectation); use != ports.NoUse {
				flow := ends(&x.Expectation)
				yield(&flow, use)
			}
			return true
		})
	})...)
}
