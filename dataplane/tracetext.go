package dataplane

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"example.com/culvert/alg/report"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// TracedPacket is what became of one packet.
type TracedPacket struct {
	Time    time.Time
	Worker  int    // -1: none
	In      string // the port it came in by; "": the gateway made it
	Packet  string // its tuple, or what it is
	Steps   []ExplainedStep
	Fate    Fate
	Reason  Reason       // of a packet that was dropped, or a piece of it
	Count   uint64       // packets; more than one only if they are not told one by one
	Out     string       // the port it left by; "": none
	Leaves  *tuple.Tuple // as it left; nil: it did not
	FlowID  uint32       // with Flow
	Flow    *tuple.Tuple // original tuple of its flow; nil: none
	Helper  *report.Work // what the helper of its flow did; nil: nothing
	Resumed bool         // it was told before, as waiting
	Frames  []TracedFrame
}

// TracedFrame is one frame of a TracedPacket: as it came, as it left, or an answer.
type TracedFrame struct {
	Port    string
	Stage   TraceStage
	Link    packet.Link
	Data    []byte // what was kept of it, with its VLAN tag
	Tag     int    // bytes of the tag; behind the addresses, Offload does not count them
	Length  int    // of it all, without the tag
	Offload packet.Offload
	Pieces  int // wire packets that it stands for
}

// TraceStage says where a frame was seen.
type TraceStage uint8

const (
	StageBefore TraceStage = iota // came in by the port
	StageAfter                    // went out by it
)

// traced says what a slot is about.
func (s *Trace) traced(w *traceWalk, sent []traceSent, data []byte) TracedPacket {
	x := teller{s: s, w: w, sent: sent}
	p := &x.out
	p.Time, p.Worker, p.Fate, p.Count = time.Unix(0, w.at+s.offset), w.worker, w.fate, 1
	p.Resumed, p.Helper = w.kind == traceResumed, w.told
	if w.drops > 0 {
		p.Reason = w.why[0]
	}
	switch w.kind {
	case traceRefused:
		p.Count = w.n
		x.refused()
	case traceMade:
		p.Packet = sent[0].tuple.String()
		x.transmit()
	default:
		p.In = w.view.nameOf(w.in)
		x.walk()
		if w.kind == traceArrived {
			f := TracedFrame{Port: p.In, Stage: StageBefore, Link: w.packet.Link, Length: w.length, Offload: w.offload, Pieces: w.packet.Segments()}
			f.tag(data[:w.before], w.packet.HasVLAN, w.packet.VLAN)
			p.Frames = append(p.Frames, f)
		}
	}
	for i := range sent {
		x := &sent[i]
		f := TracedFrame{Port: w.view.nameOf(x.out), Stage: StageAfter, Link: x.link, Length: x.length, Offload: x.offload, Pieces: x.segments}
		f.tag(data[x.at:x.at+x.kept], x.tagged, x.vlan)
		p.Frames = append(p.Frames, f)
	}
	return x.out
}

// teller puts a walk into words.
type teller struct {
	s    *Trace
	w    *traceWalk
	sent []traceSent
	out  TracedPacket
}

func (x *teller) say(step, format string, args ...any) *ExplainedStep {
	x.out.Steps = append(x.out.Steps, ExplainedStep{Name: step, Text: fmt.Sprintf(format, args...)})
	return &x.out.Steps[len(x.out.Steps)-1]
}

// refused tells of packets whose walk was over.
func (x *teller) refused() {
	if x.w.worker < 0 {
		x.out.Packet = "fragments"
		x.say("fragments", "%d waited in vain", x.w.n)
		return
	}
	x.out.Packet, x.out.Out = "frames that were told before", x.w.view.nameOf(x.w.in)
	x.say("transmit", "%s had taken %d and then refused them", x.out.Out, x.w.n)
}

// walk tells that of a packet.
func (x *teller) walk() {
	x.arrive()
	if !x.parse() {
		x.end()
		return
	}
	x.ruled(rules.Pre)
	x.lookup()
	for _, list := range []rules.List{rules.Dnat, rules.Filter, rules.Snat} {
		x.ruled(list)
	}
	x.translation()
	x.help()
	x.transmit()
	x.end()
}

func (x *teller) arrive() {
	w := x.w
	from := "on " + x.out.In
	switch {
	case w.role == roleHost:
		from = "from the gateway's own stack"
	case w.role == roleBox:
		from = "from the gateway's kernel, for " + x.out.In
	}
	if p := w.view.portOf(w.in); p != nil && w.role == roleWire {
		from += ", area " + w.view.prog.Area(p.area).Name
	}
	text := fmt.Sprintf("%s, queue %d, worker %d, %d bytes", from, w.worker, w.worker, w.length)
	if n := w.packet.Segments(); n > 1 {
		text += fmt.Sprintf(", a super-packet of %d segments of %d bytes", n, w.packet.Offload.GSOSize)
	}
	if w.packet.HasVLAN {
		text += fmt.Sprintf(", VLAN %d", w.packet.VLAN&0xfff)
	}
	if w.kind == traceResumed {
		text += ", and waited"
	}
	x.say("arrive", "%s", text)
}

// parse says what was found in the packet, and whether there is a tuple.
func (x *teller) parse() bool {
	w := x.w
	q := &w.packet
	switch {
	case w.fault == packet.NotIP:
		x.out.Packet = fmt.Sprintf("EtherType %#04x", q.EtherType)
		if q.EtherType == etherARP {
			x.out.Packet = "arp"
		}
		x.say("parse", "%s", x.out.Packet)
		return false
	case !w.reached:
		x.out.Packet = "frame that cannot be read"
		x.say("parse", "%v", w.fault)
		return false
	}
	x.out.Packet = q.Tuple.String()
	text := x.out.Packet
	if q.Tuple.Proto == tuple.TCP && q.Flags&packet.FragmentLater == 0 {
		text += ", flags " + flagNames(q.TCPFlags)
	}
	text += fmt.Sprintf(", ttl %d", q.TTL)
	if q.Flags.Fragment() {
		text += fmt.Sprintf(", fragment %d at %d", q.FragID, q.FragOff)
	}
	if q.Flags&packet.ICMPError != 0 {
		text += ", about " + q.Embedded.String()
	}
	x.say("parse", "%s", text)
	if w.joined > 0 {
		x.say("fragments", "put together with %d that had come before", w.joined)
	}
	return true
}

// flagNames returns the letters of TCP flags as the packet scripts have them.
func flagNames(f uint8) string {
	const letters = "FSRPAUEW"
	var b strings.Builder
	for i := range letters {
		if f&(1<<i) != 0 {
			b.WriteByte(letters[i])
		}
	}
	if b.Len() == 0 {
		return "none"
	}
	return b.String()
}

// ruled says which rules of a list applied.
func (x *teller) ruled(list rules.List) {
	w := x.w
	var here []*rules.Rule
	for _, r := range w.rules[:w.nrules] {
		if r.List == list && !slices.Contains(here, r) {
			here = append(here, r)
		}
	}
	refused := x.out.Reason == PolicyDenied || x.out.Reason == LocalDenied
	accepted := w.flow.began && (len(here) == 0 || here[len(here)-1].Action() != rules.ActAccept)
	switch {
	case list == rules.Filter && refused:
		x.say(list.String(), "refused by the default policy").Rules = here
	case list == rules.Filter && accepted:
		x.say(list.String(), "accept by the default policy").Rules = here
	case len(here) > 0:
		x.say(list.String(), "%s", here[len(here)-1].Action()).Rules = here
	}
}

// lookup says which flow the packet belongs to.
func (x *teller) lookup() {
	w := x.w
	f := &w.flow
	if !f.found {
		x.say("lookup", "no flow")
		return
	}
	x.out.FlowID, x.out.Flow = f.id, &f.tuple[tuple.Original]
	what := "flow"
	if f.began {
		what = "begins flow"
	}
	text := fmt.Sprintf("%s %d, %s direction, %s / %s", what, f.id, f.dir, &f.tuple[tuple.Original], &f.tuple[tuple.Reply])
	if name := x.s.e.table.HelperName(f.helper); name != "" {
		text += ", helper " + name
	}
	step := x.say("lookup", "%s", text)
	if r := w.view.prog.Rule(f.rule); f.rule != 0 && !f.began && r != nil {
		step.Rules = append(step.Rules, r)
	}
}

// translation says what the packet becomes.
func (x *teller) translation() {
	f := &x.w.flow
	if !f.found || x.w.packet.Flags&packet.ICMPError != 0 {
		return
	}
	from := &f.tuple[f.dir]
	to, ok := f.tuple[f.dir.Other()].Inverse()
	if !ok {
		return
	}
	var said []string
	if from.Dst != to.Dst || from.DstPort != to.DstPort && tuple.HasPorts(from.Proto) {
		said = append(said, fmt.Sprintf("destination %s becomes %s", destinationText(from), destinationText(&to)))
	}
	if from.Src != to.Src || from.SrcPort != to.SrcPort {
		said = append(said, fmt.Sprintf("source %s becomes %s", sourceText(from), sourceText(&to)))
	}
	if len(said) == 0 {
		return
	}
	if c := nat.Choice(f.choice); f.began && c != nat.None {
		said = append(said, "port "+c.String())
	}
	x.say("translate", "%s", strings.Join(said, ", "))
}

func (x *teller) help() {
	if x.w.told == nil {
		return
	}
	h := x.w.told
	x.say("helper", "%s: %d replaced, %d expected, %d refused", x.s.e.table.HelperName(x.w.flow.helper),
		len(h.Changes), len(h.Expected), len(h.Refused))
}

// transmit says where the packet went, and who was told.
func (x *teller) transmit() {
	w := x.w
	var first *traceSent
	pieces, bytes := w.unsent, 0
	for i := range x.sent {
		f := &x.sent[i]
		if f.answer && w.kind != traceMade {
			x.say("answer", "%s to its sender by %s", &f.tuple, w.view.nameOf(f.out))
			continue
		}
		if first == nil {
			first = f
		}
		pieces++
		bytes += f.length
	}
	if first == nil {
		return
	}
	x.out.Out = w.view.nameOf(first.out)
	text := "by " + x.out.Out
	switch first.sink {
	case sinkHost:
		text = "to the gateway's own stack"
	case sinkBox:
		text = "to the gateway's kernel, as if from " + x.out.Out
	}
	if first.tuple.Family != 0 && w.fault != packet.NotIP {
		t := first.tuple
		x.out.Leaves = &t
		text += " as " + t.String()
	}
	if pieces > 1 {
		text += fmt.Sprintf(", in %d pieces", pieces)
	}
	x.say("transmit", "%s, %d bytes", text, bytes)
}

// end says why it, or a part of it, went no further.
func (x *teller) end() {
	w := x.w
	for _, why := range w.why[:min(w.drops, walkReasons)] {
		x.say("drop", "%v: %s", why, why.Advice())
	}
	if w.orphans > 0 {
		x.say("drop", "%d fragments that waited for it: %v", w.orphans, FragmentOrphan)
	}
	if w.fate == Kept {
		what := "for the address of its next hop"
		if w.packet.Flags.Fragment() {
			what = "for other fragments"
		}
		x.say("wait", "%s", what)
	}
	if w.fate == Delivered && len(x.sent) == 0 {
		x.say("transmit", "to the gateway's own stack")
	}
}

// tag makes frame the Data of f, with its VLAN tag if it has one.
func (f *TracedFrame) tag(frame []byte, has bool, tci uint16) {
	const tpid = 0x8100 // IEEE 802.1Q
	f.Data = frame
	if !has || f.Link != packet.LinkEthernet || len(frame) < 12 {
		return
	}
	f.Tag = 4
	f.Data = append(make([]byte, 0, len(frame)+f.Tag), frame[:12]...)
	f.Data = append(f.Data, tpid>>8, tpid&0xff, byte(tci>>8), byte(tci))
	f.Data = append(f.Data, frame[12:]...)
}

// ParseReason returns the Reason with a name.
func ParseReason(name string) (Reason, bool) {
	for r := None + 1; r < numReasons; r++ {
		if r.String() == name {
			return r, true
		}
	}
	return None, false
}
