package api

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// Flow is one entry of the table.
type Flow struct {
	ID       uint32   `json:"id"`
	Family   string   `json:"family"` // ipv4, ipv6
	Proto    string   `json:"proto"`
	ProtoNum uint8    `json:"protonum"`
	State    string   `json:"state,omitempty"` // of TCP, SCTP and DCCP
	Status   []string `json:"status"`
	Timeout  float64  `json:"timeout"` // seconds until it expires
	Mark     uint32   `json:"mark"`
	Labels   []int    `json:"labels,omitempty"` // bits that are set
	Rule     uint32   `json:"rule,omitempty"`   // id of the rule that admitted it
	Since    uint32   `json:"generation"`       // of the rules that admitted it
	Helper   string   `json:"helper,omitempty"`
	Original Side     `json:"original"`
	Reply    Side     `json:"reply"`
	OrigTag  uint32   `json:"orig_tag,omitempty"`  // of SCTP: the verification tag
	ReplyTag uint32   `json:"reply_tag,omitempty"` //
	Why      *Why     `json:"why,omitempty"`       // with the output option why

	Start *time.Time `json:"start,omitempty"` // with conntrack.timestamp
	Stop  *time.Time `json:"stop,omitempty"`
}

// Why says who made a flow as it is.
type Why struct {
	Rule       string `json:"rule,omitempty"`     // that decided about it: its name, or its list and place there; absent: none
	Text       string `json:"text,omitempty"`     // of the rule in normal form
	Position   string `json:"position,omitempty"` // of the rule as file:line
	Generation uint32 `json:"generation"`         // of the rules in force then
	PortChoice string `json:"port_choice"`        // why it has its external port
}

// appendTo appends why as the last words of a line: rule=internet at=culvert.toml:9
// generation=1 port=preserved.
func (w *Why) appendTo(b []byte) []byte {
	b = append(b, "rule="...)
	switch {
	case w.Rule == "":
		b = append(b, '-')
	case strings.ContainsAny(w.Rule, " \t\"="):
		b = strconv.AppendQuote(b, w.Rule)
	default:
		b = append(b, w.Rule...)
	}
	if w.Position != "" {
		b = append(append(b, " at="...), w.Position...)
	}
	b = strconv.AppendUint(append(b, " generation="...), uint64(w.Generation), 10)
	return append(append(append(b, " port="...), w.PortChoice...), ' ')
}

// Side is one direction of a Flow.
type Side struct {
	Src     netip.Addr `json:"src"`
	Dst     netip.Addr `json:"dst"`
	Sport   *uint16    `json:"sport,omitempty"` // of GRE the key
	Dport   *uint16    `json:"dport,omitempty"`
	Type    *uint8     `json:"type,omitempty"` // of ICMP
	Code    *uint8     `json:"code,omitempty"`
	Ident   *uint16    `json:"icmp_id,omitempty"`
	Zone    uint16     `json:"zone,omitempty"`
	Packets uint64     `json:"packets"`
	Bytes   uint64     `json:"bytes"`
}

// Event is a line of the stream of events: what happened to a flow or an expectation,
// what there is already, or what became of the stream.
type Event struct {
	Seq   uint64    `json:"seq"`             // 1, 2, 3, ... over all events of flows and expectations since recording began; 0 in what is LISTED
	Type  string    `json:"type"`            // NEW, UPDATE, DESTROY; LISTED: it is there already; READY: the list is through; MISSED: events are missing here; RESTARTED: the gateway began anew here, and with it the numbers
	Time  time.Time `json:"time,omitzero"`   // of NEW, UPDATE and DESTROY
	Cause string    `json:"cause,omitempty"` // why the gateway ended the flow with notice: address-lost, uplink-down, interface-gone, rules-changed

	Commanded bool `json:"commanded,omitempty"` // somebody asked for it, by the API or a reload: no packet and no timer did it

	Flow   *Flow             `json:"flow,omitempty"`
	Expect *Expectation      `json:"expectation,omitempty"`
	Missed uint64            `json:"missed,omitempty"`         // type MISSED: how many events of those asked for, without regard to the filter
	Kinds  map[string]uint64 `json:"missed_by_kind,omitempty"` // the same by kind: new, update, destroy, expect-new, expect-destroy
	Torn   bool              `json:"torn,omitempty"`           // type RESTARTED: the gateway ended before all events were written; nobody knows how many are missing
	Cursor string            `json:"cursor,omitempty"`         // where to go on behind this line; absent until READY when there is a list
}

// Types of an Event that are about the stream itself.
const (
	EventMissed    = "MISSED"
	EventListed    = "LISTED"
	EventReady     = "READY"
	EventRestarted = "RESTARTED"
)

func flowFrom(f *conntrack.Flow) *Flow {
	t := &f.Tuple[tuple.Original]
	out := &Flow{
		ID:       f.ID,
		Family:   familyName(t.Family),
		Proto:    tuple.ProtoName(t.Proto),
		ProtoNum: t.Proto,
		Status:   split(f.Status.String()),
		Timeout:  f.Timeout.Seconds(),
		Mark:     f.Mark,
		Rule:     f.Rule,
		Since:    f.Generation,
		Helper:   f.Helper,
		Original: sideFrom(f, tuple.Original),
		Reply:    sideFrom(f, tuple.Reply),
		OrigTag:  f.Tags[tuple.Original],
		ReplyTag: f.Tags[tuple.Reply],
	}
	for bit := range maxLabel + 1 {
		if f.Labels[bit/64]>>(bit%64)&1 != 0 {
			out.Labels = append(out.Labels, bit)
		}
	}
	if conntrack.HasStates(t.Proto) {
		out.State = f.State.String()
	}
	if !f.Start.IsZero() {
		out.Start = &f.Start
	}
	if !f.Stop.IsZero() {
		out.Stop = &f.Stop
	}
	return out
}

func familyName(family uint8) string {
	if family == tuple.IPv6 {
		return "ipv6"
	}
	return "ipv4"
}

func sideFrom(f *conntrack.Flow, d tuple.Direction) Side {
	t := f.Tuple[d]
	s := Side{Src: t.Src.Netip(), Dst: t.Dst.Netip(), Zone: t.Zone, Packets: f.Packets[d], Bytes: f.Bytes[d]}
	switch {
	case tuple.HasPorts(t.Proto), t.Proto == tuple.GRE:
		s.Sport, s.Dport = &t.SrcPort, &t.DstPort
	case tuple.IsICMP(t.Proto):
		kind, code := uint8(t.DstPort>>8), uint8(t.DstPort)
		s.Type, s.Code, s.Ident = &kind, &code, &t.SrcPort
	}
	return s
}
