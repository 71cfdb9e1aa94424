package rules

import "slices"

// Names reports whether c asks for a state by its name, not by naming others.
func (c *Conditions) Names(s State) bool {
	return c.State.Sense == Is && slices.Contains(c.State.Values, s)
}

// spareInvalid keeps a rule with conditions c that accepts away from invalid
// packets, unless it names them: "accept what lan sends" means flows, and an
// invalid packet is part of none.
func (m *matcher) spareInvalid(c *Conditions) {
	if c.Names(Invalid) {
		return
	}
	if !m.looksAt(fState) {
		m.fields |= fState
		m.states = ^uint8(0)
	}
	m.states &^= 1 << Invalid
}

// Judges reports whether any filter rule may apply to packets of state s. When
// none does, the default policy is all there is.
func (p *Program) Judges(s State) bool { return p.judged>>s&1 != 0 }

// judges notes the states of packets that a filter rule applies to.
func (p *Program) judges(m *matcher) {
	if m.looksAt(fState) {
		p.judged |= m.states
	} else {
		p.judged = ^uint8(0)
	}
}
