package control

import (
	"errors"
	"fmt"
	"slices"

	"example.com/culvert/control/api"
	"example.com/culvert/control/pcapng"
	"example.com/culvert/dataplane"
	"example.com/culvert/dataplane/packet"
)

// Watch shows what becomes of packets from now on.
func (g *Gateway) Watch(q api.WatchRequest) (api.Watching, error) {
	if g.current.Load().generation == 0 {
		return nil, ErrNotRunning
	}
	m, err := api.ParseMatch(q.Match)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	o := dataplane.TraceOptions{Rate: q.Rate, Snap: q.Snap, Walks: q.Walks, Filter: dataplane.TraceFilter{
		Family: m.Family, Proto: m.Proto, Src: m.Src, Dst: m.Dst, Host: m.Host, SrcPort: m.Sport, DstPort: m.Dport, Port: m.Port,
		In: m.In, Out: m.Out, Interface: m.Interface, Dropped: m.Dropped, Flow: m.Flow, Helper: m.Helper, Helped: m.Helped,
	}}
	if m.Reason != "" {
		r, ok := dataplane.ParseReason(m.Reason)
		if !ok {
			return nil, fmt.Errorf("%w: there is no reason %q; culvert counters -o json has them all", ErrRefused, m.Reason)
		}
		o.Filter.Reasons = []dataplane.Reason{r}
	}
	if q.Snap > 0 {
		o.Walks, o.Bytes = max(o.Walks, captureWalks), captureBytes
	}
	t, err := g.engine.Trace(o)
	if errors.Is(err, dataplane.ErrTraces) {
		return nil, fmt.Errorf("%w: %w: end one of them", ErrRefused, err)
	}
	if err != nil {
		return nil, err
	}
	return &watching{t, q.Snap > 0}, nil
}

// What a capture keeps of each worker until it is read.
const (
	captureWalks = 4096
	captureBytes = 8 << 20
)

// watching is a Trace in the words of the API.
type watching struct {
	*dataplane.Trace
	frames bool
}

// Read implements api.Watching.
func (w *watching) Read(f func(*api.TracedPacket, []api.CapturedFrame) bool) {
	w.Trace.Read(func(p *dataplane.TracedPacket) bool {
		out := tracedPacket(p)
		var frames []api.CapturedFrame
		if w.frames {
			for i := range p.Frames {
				frames = append(frames, capturedFrame(&p.Frames[i]))
			}
		}
		return f(&out, frames)
	})
}

func tracedPacket(p *dataplane.TracedPacket) api.TracedPacket {
	out := api.TracedPacket{
		Time: p.Time, Worker: p.Worker, Packet: p.Packet, In: p.In, Steps: []api.Explained{}, Verdict: p.Fate.String(),
		Out: p.Out, Flow: p.FlowID, Helper: p.Helper,
	}
	if p.Count != 1 {
		out.Count = p.Count
	}
	if p.Reason != dataplane.None {
		out.Reason, out.Advice = p.Reason.String(), p.Reason.Advice()
	}
	if p.Leaves != nil {
		out.Leaves = p.Leaves.String()
	}
	if p.Flow != nil {
		out.Of = p.Flow.String()
	}
	for _, s := range p.Steps {
		step := api.Explained{Step: s.Name, Text: s.Text}
		for _, r := range s.Rules {
			step.Rules = append(step.Rules, ruleRef(r))
		}
		out.Steps = append(out.Steps, step)
	}
	return out
}

// capturedFrame is a frame as a capture has it: with its checksums, which in a gateway
// are left to the port.
func capturedFrame(f *dataplane.TracedFrame) api.CapturedFrame {
	out := api.CapturedFrame{Interface: f.Port, Out: f.Stage == dataplane.StageAfter, Link: pcapng.Ethernet, Data: f.Data, Length: f.Length}
	if f.Link == packet.LinkIP {
		out.Link = pcapng.RawIP
	}
	out.Length += f.Tag
	if f.Offload.Flags&packet.NeedsCsum != 0 && len(f.Data)-f.Tag == f.Length {
		whole := packet.Packet{Mem: slices.Clone(f.Data), Off: f.Tag, End: len(f.Data), Offload: f.Offload}
		packet.CompleteChecksum(&whole)
		out.Data = whole.Mem
	}
	if f.Pieces > 1 {
		out.Note = fmt.Sprintf("super-packet of %d segments of %d bytes", f.Pieces, f.Offload.GSOSize)
	}
	return out
}
