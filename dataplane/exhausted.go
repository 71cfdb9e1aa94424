package dataplane

import (
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/rules"
)

const (
	longSearch    = 1024        // candidates: shorter searches are repeated for every packet
	exhaustedHold = time.Second // how long a long search that found nothing is not repeated
	numExhausted  = 64          // searches remembered
)

// exhausted remembers long searches for a free port that found none: one costs
// milliseconds, and a client that keeps all ports of an address busy must not
// make every further packet cost them.
type exhausted struct {
	searches [numExhausted]failedSearch
	next     int
	any      int64 // ns: until then some search may be held
}

type failedSearch struct {
	key   searchKey
	until int64 // ns
}

// searchKey names what a search goes over: the sources a rule allows towards
// one destination, for a packet whose own port is in some class.
type searchKey struct {
	to    tuple.Tuple // source port zero; the address too unless the flow keeps it
	rule  *rules.Rule
	class uint8
}

// searchOf returns the key of the search for a flow that leaves as t, or with a
// source that rule gives it.
func searchOf(t tuple.Tuple, rule *rules.Rule) searchKey {
	k := searchKey{to: t, rule: rule}
	if tuple.HasPorts(t.Proto) && t.SrcPort < 1024 {
		k.class = 1 + uint8(t.SrcPort>>9) // as nat's: below 512, below 1024
	}
	k.to.SrcPort = 0
	if rule != nil {
		k.to.Src = tuple.Addr{}
	}
	return k
}

// holds reports whether a search for k failed lately.
func (x *exhausted) holds(k *searchKey, now int64) bool {
	if now >= x.any {
		return false
	}
	for i := range x.searches {
		if s := &x.searches[i]; now < s.until && s.key == *k {
			return true
		}
	}
	return false
}

// add remembers that a search for k failed.
func (x *exhausted) add(k *searchKey, now int64) {
	x.searches[x.next] = failedSearch{*k, now + int64(exhaustedHold)}
	x.next = (x.next + 1) % numExhausted
	x.any = now + int64(exhaustedHold)
}
