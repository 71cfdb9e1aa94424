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

const (
	growAhead = 1 << 17 // slots with memory beyond those in use: some 27 MB
	growStep  = 1 << 13 // slots at a time, less than a page of two megabytes
)

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
			for g.ready.Load() < min(t.slots.high.Load()+growAhead, g.limit) && !g.stopped() {
				g.step()
			}
			t.slots.grow(g)
		}
	}()
}

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
