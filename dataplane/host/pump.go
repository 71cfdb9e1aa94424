package host

import (
	"net/netip"

	"example.com/culvert/dataplane/packet"
)

// DeliverLink hands over a frame of ARP or IPv6 neighbour discovery, Ethernet header first
// and without VLAN tag, as received on port id. It copies frame and reports false when the ring is full.
// What is sent to everybody leaves a quarter of the ring to what is sent to the gateway alone:
// answers to its questions, and the questions of hosts that are in touch with it.
func (h *Host) DeliverLink(id uint16, frame []byte) bool {
	keep := 0
	if len(frame) > 0 && frame[0]&1 != 0 {
		keep = len(h.links.slots) / 4
	}
	return h.put(h.links, keep, kindLink, id, frame, packet.Offload{})
}

// DeliverLocal hands over an IP packet for the gateway itself, already
// translated. off.CsumStart counts from the start of ip. It copies ip and
// reports false when the ring is full.
func (h *Host) DeliverLocal(ip []byte, off packet.Offload) bool {
	return h.put(h.locals, 0, kindLocal, 0, ip, off)
}

// Resolve asks for the MAC of addr on port id. The answer comes by onNeighbour: at once if
// addr answered lately, else Reachable or, after 3 s, Failed; Stale in between gives a MAC
// that may serve meanwhile. Asking again while a question is open changes nothing. A question that
// finds the ring full is lost, and counted: the caller asks again.
func (h *Host) Resolve(id uint16, addr netip.Addr) {
	b := addr.As16()
	h.put(h.asks, 0, kindResolve, id, b[:], packet.Offload{})
}

// put copies content into ring r, leaving keep slots free, and wakes the pump. It takes no
// lock and does not allocate.
func (h *Host) put(r *ring, keep int, k kind, id uint16, content []byte, off packet.Offload) bool {
	if h.closed.Load() || !r.putBelow(keep, k, id, content, off) {
		return false
	}
	h.wakePump()
	return true
}

func (h *Host) wakePump() {
	if h.asleep.Load() && h.asleep.CompareAndSwap(true, false) || h.closed.Load() {
		select {
		case h.wake <- struct{}{}:
		default:
		}
	}
}

// Records of a ring that are taken before the next one gets its turn. Of local
// packets few, for netstack spends long on each: however many come for the gateway
// itself, link frames and questions wait for so many at most.
const (
	pumpBatch  = 64
	localBatch = 16
)

// Poll moves what waits in the rings into netstack and returns how much that was. It
// is for PumpManual, from one goroutine at a time.
func (h *Host) Poll() int {
	n := 0
	for {
		k := h.poll()
		if k == 0 {
			return n
		}
		n += k
	}
}

func (h *Host) run() {
	defer h.done.Done()
	for !h.closed.Load() {
		if h.poll() > 0 {
			continue
		}
		h.asleep.Store(true)
		if h.links.empty() && h.asks.empty() && h.locals.empty() && !h.closed.Load() {
			<-h.wake
		}
		h.asleep.Store(false)
	}
}

// poll gives each ring its turn.
func (h *Host) poll() int { return h.pollLinks() + h.pollAsks() + h.pollLocals() }

func (h *Host) pollLinks() int {
	n := 0
	for ; n < pumpBatch; n++ {
		s, pos := h.links.read()
		if s == nil {
			break
		}
		if l := (*h.byID.Load())[s.id]; l != nil { // else the port went away meanwhile
			h.stats.linkRx.Add(1)
			l.receive(h.links.content(pos, int(s.length)))
		}
		h.links.release()
	}
	return n
}

func (h *Host) pollAsks() int {
	n := 0
	for ; n < pumpBatch; n++ {
		s, pos := h.asks.read()
		if s == nil {
			break
		}
		if l := (*h.byID.Load())[s.id]; l != nil {
			l.resolve(netip.AddrFrom16([16]byte(h.asks.content(pos, int(s.length)))).Unmap())
		}
		h.asks.release()
	}
	return n
}

func (h *Host) pollLocals() int {
	n := 0
	for ; n < localBatch; n++ {
		s, pos := h.locals.read()
		if s == nil {
			break
		}
		h.stats.localRx.Add(1)
		h.local.receive(h.locals.content(pos, int(s.length)), s.off)
		h.locals.release()
	}
	return n
}
