package dataplane

import (
	"bytes"
	"maps"
	"slices"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/mem"
)

// judge has what has arrived go as far as it goes, and judges what leaves.
func (l *anyLab) judge() {
	l.Helper()
	l.unjudged = 0
	l.lab.step()
	l.balance()
	for _, name := range []string{"lan", "wan", "guest", "host"} {
		for _, f := range l.ports[name].TakeFrames() {
			l.judgeFrame(name, f)
		}
	}
	s := l.e.Stats()
	answers := int(s.Originated - l.budget.told)
	if l.budget.frames+answers < 0 {
		l.Errorf("%d packets left that did not come, and %d are answers", -l.budget.frames, answers)
	}
	if l.budget.bytes+answers*1336 < 0 {
		l.Errorf("%d bytes left that did not come, and %d answers", -l.budget.bytes, answers)
	}
	if s.Waiting == 0 {
		l.budget.frames, l.budget.told = 0, s.Originated
		l.budget.bytes = min(max(l.budget.bytes, 0), int(l.e.helpers.memory.Load())) // what helpers hold back leaves later
		l.forgetAsked()
	}
}

// judgeFrame looks at a frame that has left, as a suspicious receiver does.
func (l *anyLab) judgeFrame(name string, f mem.Frame) {
	l.Helper()
	info := l.ports[name].Info()
	ip := ipIn(f, info.Link)
	wrong := func(what string) {
		l.Helper()
		l.Errorf("%s, %s: sent a packet %s (offload %+v):\n% x\nafter %s had got (offload %+v)\n% x", shapes[l.shape].name, name, what, f.Offload, ip[:min(len(ip), 160)],
			l.latestAt, l.latest.Offload, l.latest.Data[:min(len(l.latest.Data), 160)])
	}
	l.budget.frames--
	l.budget.bytes -= len(ip)
	y, ok := layoutOf(ip)
	if !ok || y.end != len(ip) {
		wrong("of wrong length")
		return
	}
	if info.Link == packet.LinkEthernet {
		kind := []byte{8, 0}
		if y.v6 {
			kind = []byte{0x86, 0xdd}
		}
		if !bytes.Equal(f.Data[12:14], kind) || [6]byte(f.Data[6:12]) != info.MAC || f.Data[0]&1 != 0 {
			wrong("in a wrong frame")
		}
	}
	super := f.Offload.GSOType != packet.GSONone
	longest := len(ip)
	if super {
		longest = int(f.Offload.HdrLen) + int(f.Offload.GSOSize)
		if info.Link == packet.LinkEthernet {
			longest -= 14
		}
		if !info.GSO {
			wrong("that the port does not take")
		}
	}
	if longest > info.MTU && !l.wild && name != "host" {
		wrong("longer than the MTU")
	}
	if !l.wild && !rightSums(ip, f.Offload.Flags&packet.NeedsCsum != 0) {
		wrong("with a wrong checksum")
	}
	if name == "wan" {
		l.judgeOutside(ip, &y, wrong)
	}
	l.left[l.nleft%len(l.left)] = departed{name, slices.Clone(ip)}
	l.nleft++
}

// judgeOutside expects that a packet shows nobody outside who is inside.
func (l *anyLab) judgeOutside(ip []byte, y *layout, wrong func(string)) {
	own, translated := addr("203.0.113.1"), shapes[l.shape].v4
	if y.v6 {
		own, translated = addr("2001:db8:2::1"), shapes[l.shape].v6
	}
	expects := func(a tuple.Addr) bool {
		_, ok := l.asked[asked{addressOf(y.dst), a}]
		return ok
	}
	if src := addressOf(y.src); translated && src != own && !expects(src) {
		wrong("from an inside address")
	}
	if y.fragment || y.proto != tuple.ICMP && y.proto != tuple.ICMPv6 || y.end-y.l4 < 8 {
		return
	}
	kind, isError := ip[y.l4], false
	if y.v6 {
		isError = kind < 128
	} else {
		isError = kind == 3 || kind == 4 || kind == 5 || kind == 11 || kind == 12
	}
	quote := ip[y.l4+8:]
	if !isError || len(quote) < headerLen(ip) || len(quote) < 20 || quote[0]>>4 == 6 && len(quote) < 40 {
		return
	}
	to := quote[16:20]
	if quote[0]>>4 == 6 {
		to = quote[24:40]
	}
	if a := addressOf(to); translated && a != own && !expects(a) {
		wrong("that quotes an inside address")
	}
}

// forgetAsked forgets what was asked by packets that are through, unless a rule has
// forwarded them: what they began may be answered much later.
func (l *anyLab) forgetAsked() {
	if len(l.asked) == 0 {
		return
	}
	l.table.Dump(func(f *conntrack.Flow) bool {
		if of := (asked{f.Tuple[0].Src, f.Tuple[0].Dst}); f.Status.Has(conntrack.DstNAT) {
			if _, ok := l.asked[of]; ok {
				l.asked[of] = true
			}
		}
		return true
	})
	maps.DeleteFunc(l.asked, func(_ asked, forwarded bool) bool { return !forwarded })
}
