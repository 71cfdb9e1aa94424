package rules

import (
	"net/netip"
	"strconv"

	"example.com/culvert/nat"
)

// TranslatesDestination reports whether rs, a rule of the dnat list, changes the
// packet.
func (rs *RuleSpec) TranslatesDestination() bool {
	switch rs.Then {
	case ActDnat, ActRedirect, ActNetmap, ActNPTv6:
		return true
	}
	return false
}

// destination adds the arguments of an action of the dnat list.
func (w *words) destination(rs *RuleSpec) {
	d := &rs.Dest
	switch {
	case d.Map != nil:
		w.add("map " + mapText(d.Map, func(d *nat.Destination) string { return targetText(d.Addrs, d.Ports, d.Fit) }))
	case d.Balance != nil:
		w.add("balance " + balanceNames[d.Balance.By] + " " + join(d.Balance.Backends, backendText))
	default:
		w.to(d.Addrs, d.Ports)
	}
	w.flags(d.Flags)
	if d.Flags&nat.Shift != 0 {
		w.add("shift")
	}
	switch s := rs.Twice; {
	case s == nil:
	case s.Masquerade():
		w.add("source masquerade")
	default:
		w.add("source " + join(s.Addrs, RangeText))
	}
	if rs.Hairpin == NoHairpin {
		w.add("no-hairpin")
	}
}

// source adds the arguments of an action of the snat list.
func (w *words) source(rs *RuleSpec) {
	s := &rs.Src
	if s.Map != nil {
		w.add("map " + mapText(s.Map, func(s *nat.Source) string { return targetText(s.Addrs, s.Ports, s.Fit) }))
	} else {
		w.to(s.Addrs, s.Ports)
	}
	w.flags(s.Flags)
	w.portTerms(rs)
}

func (w *words) to(addrs []nat.AddrRange, ports nat.PortRange) {
	one := len(addrs) == 1 && addrs[0].First == addrs[0].Last
	switch {
	case one && !ports.IsZero() && ports.First == ports.Last:
		w.add("to " + netip.AddrPortFrom(addrs[0].First.Netip(), ports.First).String())
		ports = nat.PortRange{}
	case len(addrs) > 0:
		w.add("to " + join(addrs, RangeText))
	}
	if !ports.IsZero() {
		w.add("ports " + ports.String())
	}
}

func (w *words) flags(f nat.Flags) {
	for _, flag := range [...]struct {
		bit  nat.Flags
		name string
	}{{nat.Random, "random"}, {nat.FullyRandom, "fully-random"}, {nat.Persistent, "persistent"}} {
		if f&flag.bit != 0 {
			w.add(flag.name)
		}
	}
}

// mapText returns "key=target,key=target" in the order of the keys.
func mapText[T any](m *nat.Map[T], target func(*T) string) string {
	return join(m.Entries(), func(e nat.Entry[T]) string {
		return keyText(e.Addrs, e.Ports) + "=" + target(&e.To)
	})
}

// keyText returns a key of a map: address, port or both.
func keyText(addrs nat.AddrRange, ports nat.PortRange) string {
	switch {
	case addrs == nat.AnyAddr:
		return ports.String()
	case ports == nat.AnyPort:
		return RangeText(addrs)
	}
	return withPorts(RangeText(addrs), addrs, ports)
}

// targetText returns where an entry of a map leads. A prefix keeps the host bits, a
// range is a pool.
func targetText(addrs []nat.AddrRange, ports nat.PortRange, fit nat.Fit) string {
	if len(addrs) == 0 {
		return ":" + ports.String()
	}
	text := addrs[0].String()
	if fit == nat.KeepBits {
		text = RangeText(addrs[0])
	}
	if ports.IsZero() {
		return text
	}
	return withPorts(text, addrs[0], ports)
}

func withPorts(text string, addrs nat.AddrRange, ports nat.PortRange) string {
	if !addrs.First.Is4() {
		text = "[" + text + "]"
	}
	return text + ":" + ports.String()
}

var balanceNames = [...]string{nat.ByClient: "client", nat.ByFlow: "flow", nat.RoundRobin: "round-robin"}

// backendText returns "address:port*weight", without a weight of one.
func backendText(b nat.Backend) string {
	text := b.Addr.String()
	if b.Port != 0 {
		text = netip.AddrPortFrom(b.Addr.Netip(), b.Port).String()
	}
	if b.Weight != 1 {
		text += "*" + strconv.Itoa(int(b.Weight))
	}
	return text
}
