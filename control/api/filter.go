package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// Filter says which flows a request is about: those that have everything it names.
// The zero Filter names all.
type Filter struct {
	Original  Ends        `json:"original,omitzero"`
	Reply     Ends        `json:"reply,omitzero"`
	State     string      `json:"state,omitempty"`  // of the protocol
	Status    []string    `json:"status,omitempty"` // bits that are set; UNREPLIED: no reply was seen
	Mark      *MarkFilter `json:"mark,omitempty"`
	ID        *uint32     `json:"id,omitempty"`
	Timeout   *uint32     `json:"timeout,omitempty"`   // whole seconds that are left
	Zone      *uint16     `json:"zone,omitempty"`      // of both directions
	OrigZone  *uint16     `json:"orig_zone,omitempty"` // of the original direction alone: 0 if both have the same
	ReplyZone *uint16     `json:"reply_zone,omitempty"`
	Labels    []int       `json:"labels,omitempty"`         // bits that are set
	Rule      *uint32     `json:"rule,omitempty"`           // id of the rule that admitted it
	Since     *uint32     `json:"generation,omitempty"`     // of the rules that admitted it
	Helper    *string     `json:"helper,omitempty"`         // its name; empty: no helper
	Packets   uint64      `json:"min_packets,omitempty"`    // of both directions together
	Bytes     uint64      `json:"min_bytes,omitempty"`      // of both directions together
	After     *time.Time  `json:"started_after,omitempty"`  // it began then or later; with conntrack.timestamp
	Before    *time.Time  `json:"started_before,omitempty"` // it began earlier
	SrcNAT    *NATFilter  `json:"src_nat,omitempty"`        // the source is translated
	DstNAT    *NATFilter  `json:"dst_nat,omitempty"`        // the destination is translated
	AnyNAT    *NATFilter  `json:"any_nat,omitempty"`        // one of them is
}

// Ends are what a Filter wants of the packets in one direction.
type Ends struct {
	Src     netip.Prefix `json:"src,omitzero"`
	Dst     netip.Prefix `json:"dst,omitzero"`
	SrcMask netip.Addr   `json:"src_mask,omitzero"` // bits of Src that count, instead of its length
	DstMask netip.Addr   `json:"dst_mask,omitzero"` // likewise
	Sport   *uint16      `json:"sport,omitempty"`   // of GRE the key
	Dport   *uint16      `json:"dport,omitempty"`
	Type    *uint8       `json:"type,omitempty"` // of ICMP
	Code    *uint8       `json:"code,omitempty"`
	Ident   *uint16      `json:"icmp_id,omitempty"`
}

// MarkFilter wants the bits of Mask in the mark to be those of Value.
type MarkFilter struct {
	Value uint32 `json:"value"`
	Mask  uint32 `json:"mask"`
}

// NATFilter says what an address or port is translated to. The zero NATFilter is
// any translation.
type NATFilter struct {
	Addr netip.Addr `json:"addr,omitzero"`
	Port uint16     `json:"port,omitempty"`
}

// statusUnreplied is the word for flows without SeenReply.
const statusUnreplied = "UNREPLIED"

// matcher is a Filter as the handlers use it.
type matcher struct {
	Filter
	set, unset conntrack.Status
	labels     [2]uint64
}

// maxLabel is the highest bit of labels.
const maxLabel = 127

// parseFilter reads a Filter as the parameter of a request has it.
func parseFilter(text string) (m matcher, err error) {
	if text == "" {
		return m, nil
	}
	if err := decodeStrictly(strings.NewReader(text), &m.Filter); err != nil {
		return m, fmt.Errorf("filter: %w", err)
	}
	for _, word := range m.Status {
		if word == statusUnreplied {
			m.unset |= conntrack.SeenReply
			continue
		}
		bit, ok := conntrack.ParseStatus(word)
		if !ok {
			return m, fmt.Errorf("filter: unknown status %q", word)
		}
		m.set |= bit
	}
	if m.labels, err = labelSet(m.Filter.Labels); err != nil {
		return m, fmt.Errorf("filter: %w", err)
	}
	return m, nil
}

// labelSet returns the set of labels by their bits.
func labelSet(bits []int) (set [2]uint64, err error) {
	for _, bit := range bits {
		if bit < 0 || bit > maxLabel {
			return set, fmt.Errorf("label %d: want 0 to %d", bit, maxLabel)
		}
		set[bit/64] |= 1 << (bit % 64)
	}
	return set, nil
}

// wants reports whether f has everything that m names.
func (m *matcher) wants(f *conntrack.Flow) bool {
	original, reply := &f.Tuple[tuple.Original], &f.Tuple[tuple.Reply]
	origZone, replyZone := original.Zone, reply.Zone
	if origZone == replyZone {
		origZone, replyZone = 0, 0
	}
	return m.Original.match(original) && m.Reply.match(reply) &&
		f.Status&(m.set|m.unset) == m.set &&
		(m.State == "" || conntrack.HasStates(original.Proto) && f.State.String() == m.State) &&
		(m.Mark == nil || f.Mark&m.Mark.Mask == m.Mark.Value) &&
		is(m.ID, f.ID) && is(m.Timeout, uint32(f.Timeout.Seconds())) &&
		is(m.Zone, original.Zone) && is(m.Zone, reply.Zone) &&
		is(m.OrigZone, origZone) && is(m.ReplyZone, replyZone) &&
		f.Labels[0]&m.labels[0] == m.labels[0] && f.Labels[1]&m.labels[1] == m.labels[1] &&
		is(m.Rule, f.Rule) && is(m.Since, f.Generation) && is(m.Helper, f.Helper) &&
		f.Packets[tuple.Original]+f.Packets[tuple.Reply] >= m.Packets && f.Bytes[tuple.Original]+f.Bytes[tuple.Reply] >= m.Bytes &&
		(m.After == nil || !f.Start.IsZero() && !f.Start.Before(*m.After)) &&
		(m.Before == nil || !f.Start.IsZero() && f.Start.Before(*m.Before)) &&
		m.wantsNAT(f)
}

// wantsExpect reports whether an expectation has everything that m names; see
// ofExpectations.
func (m *matcher) wantsExpect(x *conntrack.Expect) bool {
	return m.Original.match(&x.Tuple) && is(m.Zone, x.Tuple.Zone) && is(m.Helper, x.HelperName)
}

// ofExpectations refuses a filter that names what an expectation does not have: it would
// want none of them, or all.
func (m *matcher) ofExpectations() error {
	f := m.Filter
	f.Original, f.Zone, f.Helper = Ends{}, nil, nil
	if !reflect.ValueOf(f).IsZero() {
		return errors.New("filter: expectations have original, zone and helper alone")
	}
	return nil
}

// is reports whether a filter has no value for something, or has v.
func is[T comparable](want *T, v T) bool { return want == nil || *want == v }

func (e *Ends) match(t *tuple.Tuple) bool {
	return within(e.Src, e.SrcMask, t.Src) && within(e.Dst, e.DstMask, t.Dst) &&
		(e.Sport == nil && e.Dport == nil || !tuple.IsICMP(t.Proto)) && is(e.Sport, t.SrcPort) && is(e.Dport, t.DstPort) &&
		(e.Type == nil && e.Code == nil && e.Ident == nil || tuple.IsICMP(t.Proto)) &&
		is(e.Type, uint8(t.DstPort>>8)) && is(e.Code, uint8(t.DstPort)) && is(e.Ident, t.SrcPort)
}

// within reports whether a is an address that p and, if it is valid, mask allow.
func within(p netip.Prefix, mask netip.Addr, a tuple.Addr) bool {
	if !p.IsValid() || !mask.IsValid() {
		return !p.IsValid() || p.Contains(a.Netip())
	}
	if mask.Is4() != a.Is4() || p.Addr().Is4() != a.Is4() {
		return false
	}
	want, bits := tuple.AddrFrom(p.Addr()), tuple.AddrFrom(mask)
	first := 0
	if a.Is4() {
		first = len(a) - 4 // what precedes an IPv4 address is the same in all
	}
	for i := first; i < len(a); i++ {
		if (a[i]^want[i])&bits[i] != 0 {
			return false
		}
	}
	return true
}

func (m *matcher) wantsNAT(f *conntrack.Flow) bool {
	o, r := &f.Tuple[tuple.Original], &f.Tuple[tuple.Reply]
	src := func(want *NATFilter) bool {
		return want.match(o.Src, r.Dst, o.SrcPort, r.DstPort, o.Proto)
	}
	dst := func(want *NATFilter) bool {
		return want.match(o.Dst, r.Src, o.DstPort, r.SrcPort, o.Proto)
	}
	return (m.SrcNAT == nil || src(m.SrcNAT)) && (m.DstNAT == nil || dst(m.DstNAT)) &&
		(m.AnyNAT == nil || src(m.AnyNAT) || dst(m.AnyNAT))
}

// match reports whether an address and port became others, and the wanted ones.
func (n *NATFilter) match(was, is tuple.Addr, wasPort, isPort uint16, proto uint8) bool {
	moved := tuple.HasPorts(proto) && wasPort != isPort
	switch {
	case n.Addr.IsValid() && (was == is || is.Netip() != n.Addr):
		return false
	case n.Port != 0 && (!moved || isPort != n.Port):
		return false
	}
	return n.Addr.IsValid() || n.Port != 0 || was != is || moved
}

// encodeFilter is parseFilter's inverse; a nil Filter is "".
func encodeFilter(f *Filter) string {
	if f == nil {
		return ""
	}
	b, err := json.Marshal(f)
	if err != nil {
		panic("api: " + err.Error()) // our own types always marshal
	}
	return string(b)
}

// LabelNames are the names of labels by their bits.
type LabelNames map[int]string

// encode is in the order of the bits: "0=voice,7=guest".
func (l LabelNames) encode() string {
	type label struct {
		bit  int
		name string
	}
	var all []label
	for bit, name := range l {
		all = append(all, label{bit, name})
	}
	slices.SortFunc(all, func(a, b label) int { return cmp.Compare(a.bit, b.bit) })
	var words []string
	for _, x := range all {
		words = append(words, fmt.Sprintf("%d=%s", x.bit, x.name))
	}
	return strings.Join(words, ",")
}

func parseLabelNames(text string) (LabelNames, error) {
	names := make(LabelNames)
	for _, word := range split(text) {
		number, name, ok := strings.Cut(word, "=")
		var bit int
		if _, err := fmt.Sscanf(number, "%d", &bit); err != nil || !ok || bit < 0 || bit > maxLabel {
			return nil, fmt.Errorf("label %q: want BIT=NAME with a bit of 0 to %d", word, maxLabel)
		}
		names[bit] = name
	}
	return names, nil
}
