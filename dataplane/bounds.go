package dataplane

import (
	"cmp"
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"

	"example.com/culvert/alg"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// HelperBounds say how much helpers may ask for and keep, so that no client and no flow
// of a client takes what others need. A zero field means its default. They are part of a
// State: what changes holds from the next payload on, Stream for flows that get their
// helper from then on.
type HelperBounds struct {
	ClientExpectations int   // expectations of one client at a time; default: conntrack.Table.ExpectShare
	ClientPerSec       int   // announcements of one client in a second; default 256
	FlowPerSec         int   // of one flow; default 64
	LogPerSec          int   // announcements that are logged in a second; default 128
	Memory             int64 // bytes that helpers keep for all flows, and for those of one client a quarter of it; default 64 MB

	Stream stream.Limits
}

// Defaults of HelperBounds.
const (
	clientPerSec        = 256
	announcesPerSec     = 64
	linesPerSec         = 128
	defaultHelperMemory = 64 << 20
)

// logShare is the part of the log's lines in a second that one client's announcements
// may take: 1/logShare.
const logShare = 2

// memoryShare is the part of HelperBounds.Memory that one client's flows may take:
// 1/memoryShare, as of the expectations.
const memoryShare = 4

// withDefaults returns b with a value in every field.
func (b HelperBounds) withDefaults(t *conntrack.Table) HelperBounds {
	b.ClientExpectations = cmp.Or(b.ClientExpectations, t.ExpectShare())
	b.ClientPerSec = cmp.Or(b.ClientPerSec, clientPerSec)
	b.FlowPerSec = cmp.Or(b.FlowPerSec, announcesPerSec)
	b.LogPerSec = cmp.Or(b.LogPerSec, linesPerSec)
	b.Memory = cmp.Or(b.Memory, defaultHelperMemory)
	return b
}

// clientOf returns whose announcements count together: who began the flow, in IPv6 his
// link, where a host takes as many addresses as it likes (RFC 8981).
func clientOf(f *alg.Flow) netip.Addr {
	a := f.Tuple[tuple.Original].Src
	if !a.Is4() {
		clear(a[8:])
	}
	return a.Netip()
}

// budget counts what clients announce in a second, and what is kept for them.
type budget struct {
	mu       sync.Mutex // guards what follows, but the bytes of accounts
	second   int64      // of the boot clock
	spent    map[netip.Addr]expense
	accounts map[netip.Addr]*account
}

// account is the memory of the flows of one client.
type account struct {
	bytes atomic.Int64
	flows int
}

// expense is what one client has had in a second.
type expense struct{ announced, logged int }

// clientsCounted bounds the clients of a budget in a second: more get nothing.
const clientsCounted = 512

// spend reports whether a client may announce n flows in a second, whatever number of
// its flows they are from, when limit is how many it may.
func (h *helpers) spend(who netip.Addr, n, limit int, second int64) bool {
	return h.charge(who, second, func(e *expense) bool {
		e.announced += n
		return e.announced <= limit
	})
}

// maySay reports whether an announcement of a client may be logged in a second, when
// limit is how many of all clients may.
func (h *helpers) maySay(who netip.Addr, limit int, second int64) bool {
	own := h.charge(who, second, func(e *expense) bool {
		e.logged++
		return e.logged <= max(limit/logShare, 1)
	})
	return own && h.pace.step(second, limit)
}

// charge changes what a client has had in a second, if f agrees, and reports whether it
// did.
func (h *helpers) charge(who netip.Addr, second int64, f func(*expense) bool) bool {
	b := h.budgetOf(who)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.second != second || b.spent == nil {
		b.second, b.spent = second, make(map[netip.Addr]expense)
	}
	e, counted := b.spent[who]
	if !counted && len(b.spent) >= clientsCounted || !f(&e) {
		return false
	}
	b.spent[who] = e
	return true
}

// budgetOf returns where a client is counted.
func (h *helpers) budgetOf(who netip.Addr) *budget {
	return &h.budgets[maphash.Comparable(h.seed, who)%helperShards]
}

// open returns the account of a client for one more flow.
func (h *helpers) open(who netip.Addr) *account {
	b := h.budgetOf(who)
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[who]
	if a == nil {
		if b.accounts == nil {
			b.accounts = make(map[netip.Addr]*account)
		}
		a = &account{}
		b.accounts[who] = a
	}
	a.flows++
	return a
}

// end says that a flow of a client has ended.
func (h *helpers) end(who netip.Addr) {
	b := h.budgetOf(who)
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.accounts[who]; a.flows > 1 {
		a.flows--
	} else {
		delete(b.accounts, who)
	}
}

// book adds bytes to what is kept, for a client and in all, and reports whether that is
// within limit.
func (h *helpers) book(a *account, bytes, limit int64) bool {
	own, all := a.bytes.Add(bytes), h.memory.Add(bytes)
	return all <= limit && own <= limit/memoryShare
}

// pace counts what is logged in a second.
type pace struct {
	mu     sync.Mutex
	second int64 // of the boot clock
	n      int
}

// step reports whether there may be one line more in a second.
func (p *pace) step(second int64, limit int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.second != second {
		p.second, p.n = second, 0
	}
	p.n++
	return p.n <= limit
}
