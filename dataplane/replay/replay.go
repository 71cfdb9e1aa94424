package replay

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/alg/offline"
	"example.com/culvert/alg/report"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/pcap"
)

// Config says what to run over what.
type Config struct {
	Path       string // capture, pcap or pcapng
	Attachment alg.Attachment
	Port       uint16       // of flows that have the helper; 0: its usual one
	External4  netip.Addr   // of the gateway; invalid: IPv4 is not translated
	External6  netip.Addr   // of the gateway; invalid: IPv6 is not translated
	Subnet     netip.Prefix // of a link of the gateway; flows to it are not translated
}

// Event is what the helper did with one packet.
type Event struct {
	Time   time.Time `json:"time"`
	Packet int       `json:"packet"` // in the capture, from 1
	Flow   string    `json:"flow"`   // as its first packet went
	From   string    `json:"from"`   // direction of the packet: original or reply
	report.Work
}

// Summary counts a capture.
type Summary struct {
	Packets int `json:"packets"`
	Unread  int `json:"unread"` // no packets, or broken ones
	Flows   int `json:"flows"`  // with the helper
	Edited  int `json:"edited"` // messages
	Refused int `json:"refused"`
}

// Run calls tell for each packet that the helper did something with, in order.
func Run(cfg Config, tell func(*Event) error) (Summary, error) {
	in, err := pcap.Open(pcap.Config{Name: cfg.Path, In: cfg.Path})
	if err != nil {
		return Summary{}, err
	}
	defer in.Close()
	if cfg.Port == 0 {
		cfg.Port = cfg.Attachment.Spec.Port
	}
	r := &replay{cfg: cfg, flows: make(map[tuple.Tuple]*flow), awaited: make(map[socket]bool)}
	q := in.Queue(0)
	pkts := make([]packet.Packet, 1)
	for {
		at, err := in.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return r.sum, err
		}
		if q.Recv(pkts) == 0 {
			return r.sum, fmt.Errorf("%s: packet %d cannot be read", cfg.Path, r.sum.Packets+1)
		}
		r.sum.Packets++
		if err := r.packet(&pkts[0], at, tell); err != nil {
			return r.sum, err
		}
		q.Release()
	}
}

// replay is a run.
type replay struct {
	cfg     Config
	flows   map[tuple.Tuple]*flow // by the tuples of both directions, as captured
	awaited map[socket]bool       // announced with the helper
	sum     Summary
}

// socket is where an announced flow goes.
type socket struct {
	proto uint8
	at    netip.AddrPort
}

// flow is one with the helper.
type flow struct {
	gateway
	s        *stream.Session
	original tuple.Tuple
	begin    uint32 // number of its SYN
	events   [stream.NumEvents]uint32
}

// packet takes one packet of the capture through the helper.
func (r *replay) packet(p *packet.Packet, at time.Time, tell func(*Event) error) error {
	p.Offload.Flags |= packet.DataValid
	if packet.Parse(p) != packet.OK || p.Flags.Fragment() {
		r.sum.Unread++
		return nil
	}
	if p.Tuple.Proto != tuple.TCP && p.Tuple.Proto != tuple.UDP {
		return nil
	}
	f := r.flowOf(p)
	if f == nil {
		return nil
	}
	d := tuple.Original
	if p.Tuple != f.original {
		d = tuple.Reply
	}
	f.carry(p, d)
	e := f.take()
	r.sum.Edited += f.edits
	r.sum.Refused += len(e.Refused)
	f.edits = 0
	if e.Empty() {
		return nil
	}
	e.Time, e.Packet, e.Flow, e.From = at, r.sum.Packets, f.original.String(), d.String()
	return tell(&e)
}

// flowOf returns the flow of a packet, nil if it has no helper.
func (r *replay) flowOf(p *packet.Packet) *flow {
	t := &p.Tuple
	begins := t.Proto == tuple.TCP && p.TCPFlags&(packet.SYN|packet.ACK) == packet.SYN
	if f := r.flows[*t]; f != nil && !(begins && packet.Seq(p) != f.begin) {
		return f
	}
	if !slices.Contains(r.cfg.Attachment.Spec.Protos, t.Proto) {
		return nil
	}
	original := *t
	if !r.helps(t) {
		back, ok := t.Inverse()
		if !ok || begins || !r.helps(&back) {
			return nil
		}
		original = back // the capture began in the middle
	}
	f := r.open(original)
	if begins {
		f.begin = packet.Seq(p)
	}
	return f
}

// helps reports whether a flow whose first packet has tuple t gets the helper.
func (r *replay) helps(t *tuple.Tuple) bool {
	return t.DstPort == r.cfg.Port || r.awaited[socket{t.Proto, netip.AddrPortFrom(t.Dst.Netip(), t.DstPort)}]
}

// open makes a flow.
func (r *replay) open(original tuple.Tuple) *flow {
	back, _ := original.Inverse()
	seen := back
	external := r.cfg.External4
	if original.Family == tuple.IPv6 {
		external = r.cfg.External6
	}
	net := netip.Prefix{}
	if r.cfg.Subnet.Contains(original.Dst.Netip()) {
		net, external = r.cfg.Subnet, netip.Addr{}
	}
	if external.IsValid() {
		seen.Dst = tuple.AddrFrom(external)
	}
	f := &flow{original: original}
	f.gateway = gateway{r: r, Gateway: offline.Gateway{Spec: r.cfg.Attachment.Spec, Mapped: make(map[netip.AddrPort]netip.AddrPort), Net: net}}
	at := r.cfg.Attachment
	at.Helper = &watcher{at.Helper, &f.gateway}
	f.s = stream.New(&at, alg.Flow{Tuple: [tuple.NumDirections]tuple.Tuple{original, seen}}, stream.Limits{})
	r.flows[original], r.flows[back] = f, f
	r.sum.Flows++
	return f
}

// carry takes a packet of the flow to its other side.
func (f *flow) carry(p *packet.Packet, d tuple.Direction) {
	body := packet.Body(p)
	if p.Tuple.Proto == tuple.UDP {
		f.s.Datagram(d, body, &f.gateway)
		return
	}
	seq, last := packet.Seq(p), stream.More
	if p.TCPFlags&packet.SYN != 0 {
		seq++
		f.s.Begin(d, seq, stream.FromStart)
	}
	if p.TCPFlags&packet.ACK != 0 && f.s.Begun(d.Other()) {
		f.s.Acked(d, f.s.Seq(d.Other(), packet.Ack(p))) // its sender saw no edits
	}
	switch {
	case p.TCPFlags&packet.RST != 0:
		body = nil
	case p.TCPFlags&packet.FIN != 0:
		last = stream.Fin
	}
	f.s.Segment(d, seq, body, last, &f.gateway)
}

// take returns what has happened since it was called last.
func (f *flow) take() Event {
	e := Event{Work: report.Work{Changes: f.changes, Expected: f.Announced, Refused: f.Refused}}
	f.changes, f.Announced, f.Refused = nil, nil, nil
	e.Happened = report.Happened(&f.events, &f.s.Events)
	f.events = f.s.Events
	return e
}
