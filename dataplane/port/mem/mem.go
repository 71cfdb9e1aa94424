package mem

import (
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"sync/atomic"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

// batch is how many frames a sender keeps before it flushes on its own.
const batch = 64

// Wake says how a worker learns that a queue has frames.
type Wake uint8

// Values of Wake.
const (
	WakeFD   Wake = iota // Queue.FD is an eventfd
	WakeNone             // Queue.FD is -1; see Options.Notify
)

// Options describes a port. The zero value is an Ethernet port with one queue,
// an MTU of 1500 and no offloads.
type Options struct {
	Link   packet.Link
	MTU    int       // default 1500
	GSO    port.GSO  // whether the port takes GSO frames and partial checksums
	MAC    [6]byte   // default: made from the name
	Queues int       // default 1
	Depth  int       // frames that one queue holds, default 1024
	Wake   Wake      //
	Notify func(int) // called with the queue's index, by the sender's goroutine, after frames arrived
	// Steer picks the receiving queue of a frame. Default: the index of
	// the sending queue modulo the number of queues, 0 for other senders.
	Steer func(frame []byte) int
	// Impair decides what becomes of each frame that arrives. Default: all pass.
	// It is called with the receiving queue locked, frames of a queue in order.
	Impair func(frame []byte) Fate
}

func (o *Options) setDefaults(name string) {
	if o.MTU == 0 {
		o.MTU = 1500
	}
	if o.Queues == 0 {
		o.Queues = 1
	}
	if o.Depth == 0 {
		o.Depth = 1024
	}
	if o.MAC == [6]byte{} && o.Link == packet.LinkEthernet {
		h := fnv.New64a()
		h.Write([]byte(name)) // never fails
		s := h.Sum64()
		o.MAC = [6]byte{0x02, byte(s), byte(s >> 8), byte(s >> 16), byte(s >> 24), byte(s >> 32)}
	}
}

// Port is a port.Port in memory.
type Port struct {
	name   string
	opt    Options
	peer   *Port // nil: sent frames wait in sink
	queues []*queue
	mtu    atomic.Int64
	down   atomic.Bool

	mu   sync.Mutex // guards sink
	sink []Frame
}

var (
	_ port.Port  = (*Port)(nil)
	_ port.Queue = (*queue)(nil)
)

// New returns a port whose wire ends in Take.
func New(name string, opt Options) (*Port, error) {
	opt.setDefaults(name)
	p := &Port{name: name, opt: opt}
	p.mtu.Store(int64(opt.MTU))
	for i := range opt.Queues {
		q, err := newQueue(p, i)
		if err != nil {
			p.Close()
			return nil, err
		}
		p.queues = append(p.queues, q)
	}
	return p, nil
}

// Pair returns two ports with a wire between them, called name+".a" and name+".b".
// Both have the same options, but their own MAC addresses.
func Pair(name string, opt Options) (a, b *Port, err error) {
	if a, err = New(name+".a", opt); err != nil {
		return nil, nil, err
	}
	if b, err = New(name+".b", opt); err != nil {
		a.Close()
		return nil, nil, err
	}
	if err := Connect(a, b); err != nil {
		a.Close()
		b.Close()
		return nil, nil, err
	}
	return a, b, nil
}

// Connect puts a wire between two ports made by New, before either is used.
func Connect(a, b *Port) error {
	if a.opt.Link != b.opt.Link {
		return fmt.Errorf("connect %s to %s: one is Ethernet, the other is not", a.name, b.name)
	}
	if a.peer != nil || b.peer != nil {
		return fmt.Errorf("connect %s to %s: already connected", a.name, b.name)
	}
	a.peer, b.peer = b, a
	return nil
}

// Info implements port.Port.
func (p *Port) Info() port.Info {
	return port.Info{
		Name: p.name, Link: p.opt.Link, MAC: p.opt.MAC, MTU: int(p.mtu.Load()), GSO: bool(p.opt.GSO),
		Up: !p.down.Load(), Driver: "mem", NumQueues: len(p.queues),
	}
}

// Refresh implements port.Port; it never fails.
func (p *Port) Refresh() (port.Info, error) { return p.Info(), nil }

// SetMTU changes the MTU, in bytes of IP packet.
func (p *Port) SetMTU(mtu int) { p.mtu.Store(int64(mtu)) }

// SetUp switches the port on: Send works and frames arrive.
func (p *Port) SetUp() { p.down.Store(false) }

// SetDown switches the port off: Send returns Down, arriving frames are lost.
func (p *Port) SetDown() { p.down.Store(true) }

// Queue implements port.Port.
func (p *Port) Queue(i int) port.Queue { return p.queues[i] }

// NewSender implements port.Port.
func (p *Port) NewSender() (port.Sender, error) { return &sender{port: p}, nil }

// Close implements port.Port.
func (p *Port) Close() error {
	p.down.Store(true)
	var errs []error
	for _, q := range p.queues {
		errs = append(errs, q.close())
	}
	return errors.Join(errs...)
}

// deliver hands f, whose Data the callee must copy, to the other end of p's
// wire and reports whether there was room.
func (p *Port) deliver(f Frame, from int) port.Status {
	if p.peer == nil {
		f.Data = append([]byte(nil), f.Data...)
		p.mu.Lock()
		p.sink = append(p.sink, f)
		p.mu.Unlock()
		return port.Sent
	}
	return p.peer.receive(f, from)
}

// receive queues f on p as arrived from the wire.
func (p *Port) receive(f Frame, from int) port.Status {
	if p.down.Load() {
		return port.Sent // lost behind the wire; the sender cannot know
	}
	i := from
	if p.opt.Steer != nil {
		i = p.opt.Steer(f.Data)
	}
	return p.queues[i%len(p.queues)].push(f)
}
