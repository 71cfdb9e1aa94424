//go:build netns

package diff

import "slices"

// maxListedPercent bounds the share of sequences with a listed difference.
const maxListedPercent = 2

// class is a difference that shall be.
type class struct {
	name, why string
	has       func(t *trial) bool
}

var classes = []class{
	{
		"udp-lite",
		"the kernel sums the pseudo header of UDP-Lite with the protocol number of UDP, and finds every correct packet invalid",
		func(t *trial) bool { return t.onlyOurs(func(m *udp) bool { return m.lite && m.sum == goodSum }) },
	},
	{
		"udp-surplus",
		"a UDP checksum covers what the length field says (RFC 768, RFC 9868 section 8); the kernel sums the whole packet",
		func(t *trial) bool {
			return t.onlyKernels(func(m *udp) bool { return !m.lite && m.skew < 0 })
		},
	},
	{
		"short-quote",
		"an ICMP error that quotes the ports of a packet and no more can be translated; the kernel wants 8 bytes",
		func(t *trial) bool { return t.onlyOurs(func(m *icmpError) bool { return m.quoted() < 8 }) },
	},
	{
		"short-gre",
		"a GRE packet has 4 bytes at least (RFC 2784 section 2.1); the kernel tracks shorter ones, and drops those below 8 while translating",
		func(t *trial) bool {
			return slices.ContainsFunc(t.events, func(e event) bool { return isShortGRE(e.what) })
		},
	},
	{
		"short-auth",
		"an IPv6 extension header ends inside of its packet (RFC 8200 section 4); the kernel steps over what is not there of an authentication header",
		func(t *trial) bool {
			return t.family == ipv6 && slices.ContainsFunc(t.events, func(e event) bool { return isShortAuth(e.what) })
		},
	},
	{
		"quoted-sum",
		"the checksum of a quoted TCP header is kept right when it is there; the kernel leaves it unless the whole header is",
		func(t *trial) bool {
			return t.sameFlows() && slices.ContainsFunc(t.events, func(e event) bool {
				m, ok := e.what.(*icmpError)
				return ok && m.quoted() >= 18 && m.quoted() < 20
			})
		},
	},
	{
		"reset-after-syn",
		"while nothing but SYNs was taken in, the kernel believes a RST of any sequence number that acknowledges 0, or what it ignored before",
		(*trial).resetAfterSYN,
	},
	{
		"syn-without-options",
		"a SYN offers what its options say; the kernel keeps the offers of the SYN before when there are none at all",
		(*trial).bareSYN,
	},
	{
		"window-of-ignored-syn",
		"the window of an ignored SYN is not kept but taken for 65535: its receiver may reach further ahead or back, as with most SYNs",
		(*trial).restarted,
	},
	{
		"early-data",
		"while the handshake lasts the kernel takes anything that the server says for another SYN+ACK, with no options, and forgets window scaling",
		(*trial).earlyData,
	},
}

// classOf returns the index of the class that explains t's difference, -1 if
// none does.
func classOf(t *trial) int {
	for i, c := range classes {
		if c.has(t) {
			return i
		}
	}
	return -1
}

// onlyOurs reports whether the first packet that one gateway alone let through
// was let through by Culvert and is one of those.
func (t *trial) onlyOurs(those any) bool { return t.onlyOne(ours, those) }

func (t *trial) onlyKernels(those any) bool { return t.onlyOne(kernel, those) }

func (t *trial) onlyOne(by int, those any) bool {
	for _, e := range t.events {
		k, o := t.outcomes[kernel].at(e.step), t.outcomes[ours].at(e.step)
		if slices.Equal(k, o) {
			continue
		}
		got := [...][]arrival{kernel: k, ours: o}
		if len(got[by]) != 1 || len(got[1-by]) != 0 {
			return false
		}
		switch is := those.(type) {
		case func(*udp) bool:
			m, ok := e.what.(*udp)
			return ok && is(m)
		case func(*tcp) bool:
			m, ok := e.what.(*tcp)
			return ok && is(m)
		case func(*icmpError) bool:
			m, ok := e.what.(*icmpError)
			return ok && is(m)
		}
		return false
	}
	return false
}

func isShortGRE(m message) bool {
	switch m := m.(type) {
	case *opaque:
		return m.number == 47 && len(m.data) < 8
	case *icmpError:
		return isShortGRE(m.about)
	}
	return false
}

// isShortAuth reports whether m is an authentication header that says it is longer
// than the packet (RFC 4302 section 2.2).
func isShortAuth(m message) bool {
	switch m := m.(type) {
	case *opaque:
		return m.number == 51 && (len(m.data) < 2 || len(m.data) < 4*(int(m.data[1])+2))
	case *icmpError:
		return isShortAuth(m.about)
	}
	return false
}

// states are the states of the flows.
func (o *outcome) states() []string {
	var all []string
	for _, f := range o.flows {
		all = append(all, f.State)
	}
	return all
}

// resetAfterSYN reports whether a RST ended a connection for the kernel alone, before
// there was one.
func (t *trial) resetAfterSYN() bool {
	half := func(s string) bool { return s == "SYN_SENT" || s == "SYN_SENT2" }
	k, o := t.outcomes[kernel].states(), t.outcomes[ours].states()
	return len(k) == 1 && len(o) == 1 && half(o[0]) && k[0] != o[0] &&
		slices.ContainsFunc(t.events, func(e event) bool {
			m, ok := e.what.(*tcp)
			return ok && m.flags&rst != 0
		})
}

// bareSYN reports whether the client has sent a SYN with options and then one
// without, before the server answered.
func (t *trial) bareSYN() bool {
	offered := false
	for _, e := range t.events {
		m, ok := e.what.(*tcp)
		switch {
		case !ok:
		case e.from == server && m.flags&syn != 0:
			offered = false
		case e.from == client && m.flags&(syn|ack|rst|fin) == syn:
			if bare := m.scale < 0 && !m.sackOK; bare && offered {
				return true
			}
			offered = true
		}
	}
	return false
}

// restarted reports whether the server has answered a SYN in the middle of a
// connection, and later said more than the client had allowed, or something old.
func (t *trial) restarted() bool {
	begun, again, answered := false, false, false
	first, limit := uint32(0), uint32(0) // what the server may say, at least
	for _, e := range t.events {
		m, ok := e.what.(*tcp)
		switch {
		case !ok:
		case e.from == client && m.flags&syn != 0:
			again = begun
		case again && e.from == server && m.flags&(syn|ack) == syn|ack:
			answered, first, limit = true, m.seq+1, m.seq+1
		case answered && e.from == server && (int32(m.seq-limit) > 0 || int32(m.seq-first) < 0):
			return true
		case answered && e.from == client && m.flags&ack != 0 && len(t.outcomes[ours].at(e.step)) > 0:
			limit = m.ack + uint32(m.win)
		}
		begun = begun || ok
	}
	return false
}

// earlyData reports whether the server has said more than a SYN+ACK before the
// client acknowledged that.
func (t *trial) earlyData() bool {
	answered, first := false, uint32(0) // of what the client has to acknowledge
	for _, e := range t.events {
		m, ok := e.what.(*tcp)
		switch {
		case !ok || m.sum != goodSum || e.ip > padded || m.cut != 0 || m.offset != 0:
		case e.from == server && m.flags&syn != 0:
			answered, first = true, m.seq+1
		case e.from == client && m.flags&(syn|ack) == ack && int32(m.ack-first) >= 0:
			answered = false
		case answered && e.from == server && m.flags&rst == 0:
			return true
		}
	}
	return false
}
