package dataplane

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// A flow that a command inserts is admitted and translated as the command says,
// whatever rules would say; only those that look at each packet are still asked. But
// ports are shared with flows that follow rules, so it takes leases like one of them:
// under the terms of the rule that would give it such a source, if there is one, and
// else like a flow under mapping linux, which keeps away from ports that have an owner.

// Insertion is a flow to insert. Choice, Holds, Rule and Generation of the proposal
// are found here, as are SrcNAT, DstNAT and their decisions.
type Insertion struct {
	conntrack.Insertion

	// Move lets the source of translated packets have another port if the one that
	// Reply says is taken.
	Move Moving
}

// Moving says whether a port may be another one than the one asked for.
type Moving uint8

const (
	NotMoved Moving = iota
	MovedIfTaken
)

// insertTries bounds the ports that are tried for an inserted flow.
const insertTries = 1024

// ErrNoLease says that a rule's limits keep a flow from being inserted.
var ErrNoLease = errors.New("the rule that translates the flow allows its client no other port")

// Insert makes a flow without a packet; when it returns, packets are translated by it.
// The error wraps one of Table.Insert's or is ErrNoLease.
func (e *Engine) Insert(in *Insertion) error {
	var ruling rules.Decision
	i := inserting{e: e, in: in, view: e.view.Load()}
	i.meet(&ruling)
	to, ok := in.Reply.Inverse()
	if !ok {
		return fmt.Errorf("%w: the reply tuple is none", conntrack.ErrState)
	}
	err := i.try(to)
	if in.Move == NotMoved || !errors.Is(err, conntrack.ErrExists) {
		return err
	}
	search := nat.NullSearch(to, rand.Uint64())
	for range insertTries {
		at, _, ok := search.Next()
		if !ok {
			break
		}
		if err = i.try(at); !errors.Is(err, conntrack.ErrExists) {
			break
		}
	}
	return err
}

// inserting is an Insertion on its way into the table.
type inserting struct {
	e    *Engine
	in   *Insertion
	view *view

	first first // what the rules would make of its first packet
	ruled bool  // the rules would give it a source
}

// meet finds the rule that would have made such a flow.
func (i *inserting) meet(ruling *rules.Decision) {
	prop := &i.in.Proposal
	prop.Generation = i.view.prog.Generation
	f := conntrack.Flow{Tuple: [...]tuple.Tuple{prop.Original, prop.Reply}, Mark: prop.Mark}
	court := i.e.newCourt(i.view)
	var why Reason
	i.first, why = court.decide(i.e, &f, ruling)
	i.ruled = why == None && ruling.Tracking != rules.NoTrack && i.first.fits.Source != nil && !i.first.use.Inbound() &&
		prop.Original.Zone == ruling.ZoneOf(tuple.Original) && prop.Reply.Zone == ruling.ZoneOf(tuple.Reply)
}

// try inserts the flow with to as its packets leave.
func (i *inserting) try(to tuple.Tuple) (err error) {
	e, in := i.e, i.in
	prop := &in.Proposal
	to.Zone = prop.Reply.Zone
	if prop.Reply, _ = to.Inverse(); e.leases.Promises() {
		ends := ports.Of(&prop.Original, &prop.Reply, ports.NoUse)
		if e.leases.Promised(&ends) {
			return fmt.Errorf("%w: a helper has announced the port", conntrack.ErrExists)
		}
	}
	prop.Status &^= conntrack.SrcNAT | conntrack.DstNAT
	prop.Status |= conntrack.SrcNATDone | conntrack.DstNATDone
	if to.Src != prop.Original.Src || to.SrcPort != prop.Original.SrcPort {
		prop.Status |= conntrack.SrcNAT
	}
	if to.Dst != prop.Original.Dst || to.DstPort != prop.Original.DstPort {
		prop.Status |= conntrack.DstNAT
	}
	prop.Rule, prop.Choice = 0, uint8(nat.Commanded)
	var terms ports.Terms
	var fits ports.Fits
	use := ports.NoUse
	switch {
	case i.ruled && allowsSource(&i.first.fits, &to):
		terms, fits, use = i.first.terms, i.first.fits, i.first.use
		prop.Rule = i.first.prop.Rule
	case leasable(to.Proto):
		use = terms.Outbound(i.view.sharing)
	}
	prop.Holds = uint8(use)
	if use == ports.NoUse {
		return e.table.Insert(&in.Insertion)
	}
	now := ports.Tick(tickAt(e.Now()))
	flow := ports.Of(&prop.Original, &prop.Reply, use)
	switch out, _ := e.leases.Take(&flow, use, &terms, fits, now); out {
	case ports.Granted:
	case ports.Busy, ports.Elsewhere:
		return fmt.Errorf("%w: its port belongs to another socket", conntrack.ErrExists)
	case ports.Full:
		return conntrack.ErrNoMemory
	default:
		return fmt.Errorf("%w: %v", ErrNoLease, ofOutcome[out])
	}
	if err = e.table.Insert(&in.Insertion); err != nil {
		e.leases.Abandon(&flow, use, now)
	}
	return err
}
