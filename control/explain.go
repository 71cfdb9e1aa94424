package control

import (
	"fmt"
	"slices"

	"example.com/culvert/control/api"
	"example.com/culvert/dataplane"
	"example.com/culvert/rules"
)

// assumptions by the words of api.Probe.
var assumptions = map[string]dataplane.Assumption{
	"established": dataplane.AssumeEstablished, "related": dataplane.AssumeRelated, "invalid": dataplane.AssumeInvalid,
}

// Explain says what would become of a packet that came now, and changes nothing.
func (g *Gateway) Explain(p api.Probe) (api.Explanation, error) {
	a := g.current.Load()
	if a.generation == 0 {
		return api.Explanation{}, ErrNotRunning
	}
	in, err := g.portOf(a, &p)
	if err != nil {
		return api.Explanation{}, err
	}
	x, err := g.engine.Explain(&dataplane.Probe{
		Tuple: p.Tuple, In: in, TCPFlags: p.TCPFlags, TTL: p.TTL, TOS: p.TOS, Length: p.Length, Mark: p.Mark,
		Assume: assumptions[p.Assume],
	})
	if err != nil {
		return api.Explanation{}, fmt.Errorf("interface %s: %w", p.In, ErrNotFound) // removed meanwhile
	}
	out := api.Explanation{Packet: p.Tuple.String(), Generation: a.generation, Verdict: x.Fate.String(), Out: x.Out}
	if x.Reason != dataplane.None {
		out.Reason, out.Advice = x.Reason.String(), x.Reason.Advice()
	} else {
		out.Leaves = x.Leaves.String()
	}
	for _, s := range x.Steps {
		step := api.Explained{Step: s.Name, Text: s.Text}
		for _, r := range s.Rules {
			step.Rules = append(step.Rules, ruleRef(r))
		}
		out.Steps = append(out.Steps, step)
	}
	return out, nil
}

// portOf returns the port that a packet comes in by.
func (g *Gateway) portOf(a *active, p *api.Probe) (uint16, error) {
	switch p.In {
	case api.GatewayItself:
		return dataplane.HostPort, nil
	case "":
		if port, ok := g.engine.PortTowards(p.Tuple.Src); ok {
			return port, nil
		}
		return 0, fmt.Errorf("%w: no route leads to %v; say in which interface the packet comes", ErrRefused, p.Tuple.Src)
	}
	i := slices.IndexFunc(a.interfaces, func(b boundInterface) bool {
		return b.id >= 0 && (b.conf.Name == p.In || key{b.conf.Netns, b.conf.Name}.String() == p.In)
	})
	if i < 0 {
		return 0, fmt.Errorf("interface %s: %w", p.In, ErrNotFound)
	}
	return uint16(a.interfaces[i].id), nil
}

func ruleRef(r *rules.Rule) api.RuleRef {
	return api.RuleRef{ID: r.ID, List: r.List.String(), Index: r.Pos, Name: r.Name, Text: r.String(), Position: position(r)}
}

// position returns where r is written, empty for what the program itself made.
func position(r *rules.Rule) string {
	if r.Source.Line == 0 {
		return ""
	}
	return fmt.Sprintf("%s:%d", r.Source.File, r.Source.Line)
}
