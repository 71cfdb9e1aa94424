//go:build netns

package diff

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

const (
	numSteps  = 18
	ageStep   = 9                       // time passes before this step
	age       = 2200 * time.Millisecond // a UDP flow is a stream after two seconds
	burst     = 200                     // packets sent without a marker; the gateways' queues hold more
	impatient = 300 * time.Millisecond  // then a marker is sent again
	patience  = 20 * time.Second
)

// event is a packet of a sequence.
type event struct {
	step int
	from side
	what message
	ip   ipFault
}

// sequence is a test case.
type sequence struct {
	number uint64 // with the seed of the run, what it was made from
	family family
	events []event // by step, one a step
}

// arrival is a packet that came out of a gateway.
type arrival struct {
	step int
	at   side
	ip   string
}

// outcome is all a gateway made of a sequence.
type outcome struct {
	arrivals []arrival
	flows    []netns.Flow // sorted by line
}

// rig is the two networks.
type rig struct {
	gateways [2]*gateway // the kernel, Culvert
	next     slot        // first one that is free
	marks    uint64
}

// Indexes of rig.gateways and of pairs of outcomes.
const (
	kernel = iota
	ours
)

// trial is a sequence at work.
type trial struct {
	*sequence
	slot     slot
	outcomes [2]outcome
}

// run takes sequences through both gateways, all at a time, and returns their
// outcomes in order.
func (r *rig) run(ctx context.Context, all []*sequence) ([]*trial, error) {
	trials := make([]*trial, len(all))
	at := map[slot]*trial{}
	for i, s := range all {
		if r.next == markerSlot || r.next == ^slot(0) {
			r.next = markerSlot + 1
		}
		trials[i] = &trial{sequence: s, slot: r.next}
		at[r.next] = trials[i]
		r.next++
	}
	if err := r.forget(ctx); err != nil {
		return nil, err
	}
	done := make(chan error)
	go func() {
		// One processor: packets that take turns between processors overtake each
		// other inside the kernel. The thread is not unlocked and ends with us.
		runtime.LockOSThread()
		var one unix.CPUSet
		one.Set(0)
		done <- errors.Join(unix.SchedSetaffinity(0, &one), r.play(ctx, trials, at))
	}()
	if err := <-done; err != nil {
		return nil, err
	}
	return trials, r.list(ctx, at)
}

// forget empties both tables.
func (r *rig) forget(ctx context.Context) error {
	for _, g := range r.gateways {
		if _, err := g.Exec(ctx, conntrack(g, "-F")...); err != nil {
			return err
		}
	}
	return nil
}

// conntrack is a command line for a gateway's table.
func conntrack(g *gateway, options ...string) []string {
	if g.Kind() == netns.Culvert {
		return slices.Concat([]string{g.Binary(), "conntrack"}, options, []string{"--socket", g.Socket()})
	}
	return slices.Concat([]string{"conntrack"}, options)
}

// play sends the packets, step by step.
func (r *rig) play(ctx context.Context, trials []*trial, at map[slot]*trial) error {
	for _, f := range []family{ipv4, ipv6} { // both families learn their neighbours
		if err := r.settle(ctx, at, 0, f); err != nil {
			return err
		}
	}
	sent := 0
	for step := range numSteps {
		if step == ageStep && slices.ContainsFunc(trials, (*trial).ages) {
			<-time.After(age) // nothing but time makes the difference, so there is nothing else to wait for
		}
		for _, t := range trials {
			i := slices.IndexFunc(t.events, func(e event) bool { return e.step == step })
			if i < 0 {
				continue
			}
			if err := r.send(t, &t.events[i]); err != nil {
				return err
			}
			if sent++; sent%burst == 0 {
				if err := r.settle(ctx, at, step, ipv4); err != nil {
					return err
				}
			}
		}
		if err := r.settle(ctx, at, step, ipv4); err != nil {
			return err
		}
	}
	for _, g := range r.gateways {
		for _, w := range g.wires {
			if err := w.lost(); err != nil {
				return err
			}
		}
	}
	return nil
}

// ages reports whether time matters to t: it has datagrams before and after it passes.
func (t *trial) ages() bool {
	is := func(e event) bool { _, ok := e.what.(*udp); return ok }
	first := slices.IndexFunc(t.events, is)
	return first >= 0 && t.events[first].step < ageStep && t.events[len(t.events)-1].step >= ageStep
}

// send gives a packet to both gateways.
func (r *rig) send(t *trial, e *event) error {
	at := t.slot.ends(e.from, t.family)
	ip := packet(&at, e.what, e.ip)
	for _, g := range r.gateways {
		if err := g.wires[e.from].send(ip, t.family); err != nil {
			return fmt.Errorf("send %v: %w", e.what, err)
		}
	}
	return nil
}

// settle waits until both gateways have dealt with all that was sent: a marker
// goes from the client to the server, its answer comes back, and no packet can
// be overtaken by them.
func (r *rig) settle(ctx context.Context, at map[slot]*trial, step int, f family) error {
	for _, from := range []side{client, server} {
		if err := r.mark(ctx, at, step, f, from); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) mark(ctx context.Context, at map[slot]*trial, step int, f family, from side) error {
	r.marks++
	var wires []*wire
	var missing [2]bool
	send := func() error {
		for i, g := range r.gateways {
			if missing[i] {
				ends := markerSlot.ends(from, f)
				if err := g.wires[from].send(packet(&ends, marker(r.marks), sound), f); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for i, g := range r.gateways {
		missing[i] = true
		wires = append(wires, g.wires[:]...)
	}
	if err := send(); err != nil {
		return err
	}
	for begin, again := time.Now(), time.Now().Add(impatient); missing[kernel] || missing[ours]; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Since(begin) > patience {
			return fmt.Errorf("step %d: no marker came from the %v (missing: kernel %v, culvert %v)", step, from, missing[kernel], missing[ours])
		}
		if time.Now().After(again) { // the first one may have waited for a neighbour in vain
			again = time.Now().Add(impatient)
			if err := send(); err != nil {
				return err
			}
		}
		if err := await(wires, impatient); err != nil {
			return err
		}
		for i, g := range r.gateways {
			for s, w := range g.wires {
				if err := w.receive(func(ip []byte, src, dst netip.Addr) {
					if isMarker(ip, src, dst, r.marks) {
						missing[i] = missing[i] && side(s) == from
						return
					}
					arrive(at, i, arrival{step, side(s), string(ip)}, src, dst)
				}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// arrive books a packet for the trial it belongs to. Others, like neighbour
// discovery, belong to none.
func arrive(at map[slot]*trial, gateway int, a arrival, src, dst netip.Addr) {
	for _, addr := range []netip.Addr{src, dst} {
		if n, ok := slotOf(addr); ok && at[n] != nil {
			o := &at[n].outcomes[gateway]
			o.arrivals = append(o.arrivals, a)
			return
		}
	}
}

// marker is a datagram with a number.
type marker uint64

func (m marker) proto(bool) uint8 { return 17 }
func (m marker) String() string   { return fmt.Sprintf("marker %d", uint64(m)) }

func (m marker) encode(e *ends) []byte {
	b := (&udp{length: 8, sum: noSum}).encode(e)
	binary.BigEndian.PutUint64(b[8:], uint64(m))
	goodSum.put(b, 6, e.pseudo(17, len(b)))
	return b
}

// isMarker recognises the marker of a number.
func isMarker(ip []byte, src, dst netip.Addr, number uint64) bool {
	for _, a := range []netip.Addr{src, dst} {
		if n, ok := slotOf(a); ok && n == markerSlot {
			const size = 8
			return len(ip) > size && binary.BigEndian.Uint64(ip[len(ip)-size:]) == number
		}
	}
	return false
}

// list gives every trial its lines of both tables, read at the same time.
func (r *rig) list(ctx context.Context, at map[slot]*trial) error {
	var wg sync.WaitGroup
	var flows [2][]netns.Flow
	var errs [2]error
	for i, g := range r.gateways {
		wg.Go(func() { flows[i], errs[i] = g.Flows(ctx) })
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	for i := range flows {
		for _, f := range flows[i] {
			for _, a := range []netip.Addr{f.Orig.Src.Addr(), f.Orig.Dst.Addr()} {
				if n, ok := slotOf(a); ok && at[n] != nil {
					o := &at[n].outcomes[i]
					o.flows = append(o.flows, f)
					break
				}
			}
		}
	}
	for _, t := range at {
		for i := range t.outcomes {
			// What comes out at both sides has no order.
			slices.SortStableFunc(t.outcomes[i].arrivals, func(a, b arrival) int {
				return cmp.Or(cmp.Compare(a.step, b.step), cmp.Compare(a.at, b.at))
			})
			slices.SortFunc(t.outcomes[i].flows, func(a, b netns.Flow) int {
				return strings.Compare(a.Proto+a.Line[strings.Index(a.Line, "src="):], b.Proto+b.Line[strings.Index(b.Line, "src="):])
			})
		}
	}
	return nil
}
