package host

import (
	"net/netip"

	"example.com/culvert/dataplane/packet"
)

// DeliverLink hands over a frame of ARP or IPv6 neighbour discovery, Ethernet header first
// and without VLAN tag, as received on port id. It copies frame and reports false when the ring is full.
func (h *Host) DeliverLink(id uint16, frame []byte) bool {
	return h.put(h.links, kindLink, id, frame, packet.Offload{})
}

// DeliverLocal hands over an IP packet for the gateway itself, already
// translated. off.CsumStart counts from the start of ip. It copies ip and
// reports false when the ring is full.
func (h *Host) DeliverLocal(ip []byte, off packet.Offload) bool {
	return h.put(h.locals, kindLocal, 0, ip, off)
}

// Resolve asks for the MAC of addr on port id. The answer comes by onNeighbour: at once if
// addr answered lately, else Reachable or, after 3 s, Failed; Stale in between gives a MAC
// that may serve meanwhile. Asking again while a question is open changes nothing. A question that
// finds the ring full is lost, and counted: the caller asks again.
func (h *Host) Resolve(id uint16, addr netip.Addr) {
	b := addr.As16()
	h.put(h.links, kindResolve, id, b[:], packet.Offload{})
}

// put copies content into ring r and wakes the pump. It takes no lock and does not allocate.
func (h *Host) put(r *ring, k kind, id uint16, content []byte, off packet.Offload) bool {
	if h.closed.Load() || !r.put(k, id, content, off) {
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

// pumpBatch records of a ring are taken before the other gets its turn.
const pumpBatch = 64

// Poll moves what waits in the rings into netstack and returns how much that was. It
// is for PumpManual, from one goroutine at a time.
func (h *Host) Poll() int {
	n := 0
	for {
		k := h.pollLinks() + h.pollLocals()
		if k == 0 {
			return n
		}
		n += k
	}
}

func (h *Host) run() {
	defer h.done.Done()
	for !h.closed.Load() {
		if h.pollLinks()+h.pollLocals() > 0 {
			continue
		}
		h.asleep.Store(true)
		if h.links.empty() && h.locals.empty() && !h.closed.Load() {
			<-h.wake
		}
		h.asleep.Store(false)
	}
}

func (h *Host) pollLinks() int {
	n := 0
	for ; n < pumpBatch; n++ {
		s, pos := h.links.read()
		if s == nil {
			break
		}
		content := h.links.content(pos, int(s.length))
		if l := (*h.byID.Load())[s.id]; l == nil {
			// The port went away while the record waited.
		} else if s.kind == kindLink {
			h.stats.linkRx.Add(1)
			l.receive(content)
		} else {
			l.resolve(netip.AddrFrom16([16]byte(content)).Unmap())
		}
		h.links.release()
	}
	return n
}

func (h *Host) pollLocals() int {
	n := 0
	for ; n < pumpBatch; n++ {
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
