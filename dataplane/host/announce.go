package host

import (
	"net/netip"
	"time"
)

const (
	announceAgain = 2 * time.Second // RFC 5227 section 1.1: ANNOUNCE_INTERVAL, ANNOUNCE_NUM 2
	maxAnnounced  = 256             // addresses announced at once; others are learned by asking
)

// announce tells the link that the gateway has addrs now: once at once, once later, so that
// hosts with an older idea of them lose it even if a frame is lost.
func (l *link) announce(addrs []netip.Addr) {
	if len(addrs) == 0 {
		return
	}
	addrs = addrs[:min(len(addrs), maxAnnounced)]
	l.announceOnce(addrs)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	// A newer announcement takes the place of one that waits: an address of the
	// older one that is still ours has been seen once.
	if l.again != nil {
		l.again.Stop()
	}
	l.again = l.host.clock.AfterFunc(announceAgain, func() { l.announceOnce(addrs) })
}

// announceOnce sends a gratuitous ARP request (RFC 5227 section 3) or an unsolicited neighbour
// advertisement (RFC 4861 section 7.2.6) for each of addrs that is still ours.
func (l *link) announceOnce(addrs []netip.Addr) {
	var buf [maxLinkFrame]byte
	for _, a := range addrs {
		l.mu.Lock()
		_, ours := l.owned[a]
		l.mu.Unlock()
		switch {
		case !ours:
		case a.Is4():
			l.transmit(appendARPRequest(buf[:0], broadcastMAC, l.info.MAC, a, a))
		default:
			l.transmit(appendAdvertise(buf[:0], l.info.MAC, a))
		}
	}
}
