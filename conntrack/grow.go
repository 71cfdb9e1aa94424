package conntrack

import (
	"sync/atomic"
	"unsafe"
)

// The first touch of memory costs: the kernel finds a page of two megabytes and
// clears it, which takes a good part of a millisecond, on some virtual machines
// six. Workers should not pay for that while packets wait. So the index and the
// clients, which are touched everywhere from the first flows on, get their
// memory at once, and the arrays by slot, which fill from below, get theirs from a goroutine that
// stays ahead of the slots in use. Whoever outruns it only pays himself. With
// Config.Reserve all is there from the beginning.
//
// Small pages would not help: on a virtual machine most of the time goes into the
// host's finding memory, and it does that by two megabytes whoever asks (a first
// touch of 2 GB: 13.1 s by 4 KB, of which 1538 touches took over 1 ms; 12.6 s by
// 2 MB, 732 touches; the second time 1.1 s and 1.4 s). So the goroutine can provide
// for some 1.7 million flows a second there, and is further ahead the more flows
// there are.

const (
	growAhead = 1 << 15 // slots with memory beyond those in use, at least: some 7 MB
	growShare = 64      // and this part of those in use
	growStep  = 1 << 13 // slots at a time, less than a page of two megabytes
)

// aheadOf returns how many slots beyond those in use shall have memory.
func aheadOf(used uint32) uint32 { return growAhead + used/growShare }

// grower is the goroutine that stays ahead.
type grower struct {
	wake chan struct{}
	quit chan struct{}
	done chan struct{}

	arrays []slotArray   // that every flow uses
	ready  atomic.Uint32 // slots that have memory
	limit  uint32        // of ready: a full table hardly ever needs more
}

// slotArray is the memory of an array by slot.
type slotArray struct {
	mem  []byte
	each int // bytes a slot
}

// follow makes the grower care for an array by slot.
func follow[T any](g *grower, a []T) {
	g.arrays = append(g.arrays, slotArray{bytesOf(a), int(unsafe.Sizeof(a[0]))})
}

// bytesOf views an array without pointers as bytes.
func bytesOf[T any](a []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(a))), len(a)*int(unsafe.Sizeof(a[0])))
}

// start takes all memory if it shall be reserved, and begins to stay ahead.
func (g *grower) start(t *Table) {
	g.wake, g.quit, g.done = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	g.limit = uint32(t.cfg.Max + slotSlack)
	for t.cfg.Reserve && g.ready.Load() < g.limit {
		g.step()
	}
	t.slots.grow(g)
	go func() {
		defer close(g.done)
		for {
			select {
			case <-g.wake:
			case <-g.quit:
				return
			}
			for g.ready.Load() < g.goal(t.slots.high.Load()) && !g.stopped() {
				g.step()
			}
			t.slots.grow(g)
		}
	}()
}

// goal returns how many slots shall have memory when so many are in use.
func (g *grower) goal(used uint32) uint32 { return min(used+aheadOf(used), g.limit) }

func (g *grower) stopped() bool {
	select {
	case <-g.quit:
		return true
	default:
		return false
	}
}

// step gets memory for the next few slots.
func (g *grower) step() {
	from := g.ready.Load()
	to := min(from+growStep, g.limit)
	for _, a := range g.arrays {
		populate(a.mem[int(from)*a.each : int(to)*a.each])
	}
	g.ready.Store(to)
}

func (g *grower) stop() {
	close(g.quit)
	<-g.done
}
