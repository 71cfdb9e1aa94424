package mem

import (
	"math/rand/v2"
	"sync"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

// Frame is a frame outside of any port.
type Frame struct {
	Data    []byte // link-layer header first, without VLAN tag
	Offload packet.Offload
	VLAN    uint16 // 802.1Q TCI when HasVLAN
	HasVLAN bool
}

// Inject makes frame, which it copies, arrive at p as if the wire had brought it, and
// reports whether there was room.
func (p *Port) Inject(frame []byte, offload packet.Offload) port.Status {
	return p.InjectFrame(Frame{Data: frame, Offload: offload})
}

// InjectFrame is Inject with everything a frame can carry.
func (p *Port) InjectFrame(f Frame) port.Status { return p.receive(f, 0) }

// Take returns the frames that were sent on p since the last call, oldest
// first. Only ports without a peer keep them. The caller owns the result.
func (p *Port) Take() [][]byte {
	frames := p.TakeFrames()
	data := make([][]byte, len(frames))
	for i := range frames {
		data[i] = frames[i].Data
	}
	return data
}

// TakeFrames is Take with everything a frame can carry.
func (p *Port) TakeFrames() []Frame {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.sink
	p.sink = nil
	return f
}

// Fate is what an impaired wire does with a frame.
type Fate uint8

// Values of Fate.
const (
	Pass      Fate = iota
	Drop           // the frame is lost
	Duplicate      // it arrives twice
	Swap           // it overtakes the one before it, if that is still waiting
)

// Rates are probabilities in [0, 1] of the fates other than Pass; their sum is at most 1.
type Rates struct{ Drop, Duplicate, Swap float64 }

// Impair returns an impairment for Options.Impair that follows r. The same
// seed gives the same fates, in the order in which frames arrive.
func Impair(seed uint64, r Rates) func(frame []byte) Fate {
	rnd := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex // queues of one port share it
	return func([]byte) Fate {
		mu.Lock()
		x := rnd.Float64()
		mu.Unlock()
		switch {
		case x < r.Drop:
			return Drop
		case x < r.Drop+r.Duplicate:
			return Duplicate
		case x < r.Drop+r.Duplicate+r.Swap:
			return Swap
		}
		return Pass
	}
}
