package rules

// policy decides what no filter rule decided:
//
//	established, related            accept
//	invalid                         drop
//	from the gateway itself         accept
//	translated by a dnat rule       accept
//	let in by a mapping             accept
//	to the gateway itself           accept from areas with local = true
//	inside to outside               accept
//	within one inside area          accept
//	everything else                 drop
//
// So lan and guest do not reach each other, and outside reaches nothing that a
// dnat rule does not name or the filtering of a flow from inside admits.
func (p *Program) policy(k *Key, d *Decision) Verdict {
	switch k.State {
	case Established, Related:
		return Accept
	case Invalid:
		return Drop
	}
	in, out := &p.areas[k.InArea], &p.areas[k.OutArea]
	switch {
	case k.InArea == AreaHost:
		return Accept
	case d.DnatRule != nil && d.DnatRule.translates(), d.Entry == ByMapping:
		return Accept
	case k.Out == HostPort:
		if in.Services == Answered {
			return Accept
		}
	case in.Side == Inside && (out.Side == Outside || k.InArea == k.OutArea):
		return Accept
	}
	return Drop
}
