package api

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/ctfmt"
	"example.com/culvert/conntrack/tuple"
)

// Form is how flows and events are written.
type Form string

// Forms.
const (
	FormJSON Form = "json" // an object a line
	FormText Form = "text" // as conntrack(8) prints them
	FormXML  Form = "xml"  // as with -o xml, a flow a line, without the first and last lines of the document
	FormSave Form = "save" // as with -o save; not of expectations
)

// Table is one of the lists of flows that a gateway has.
type Table string

// Tables of flows. The empty name stands for TableFlows.
const (
	TableFlows       Table = "conntrack"
	TableUnconfirmed Table = "unconfirmed" // the first packet waits to leave
	TableDying       Table = "dying"       // ended, and the DESTROY event waits for room
)

// dump returns how the flows of a table other than TableFlows are listed.
func (t Table) dump(of *conntrack.Table) func(func(*conntrack.Flow) bool) {
	switch t {
	case TableUnconfirmed:
		return of.DumpUnconfirmed
	case TableDying:
		return of.DumpDying
	}
	return nil
}

// Format says which flows or events a request wants, and how they are written.
// The zero Format is all of them as JSON.
type Format struct {
	Form   Form
	Output []string   // of conntrack(8) -o: extended, id, timestamp, ktimestamp, labels; ours: why
	Events []string   // of conntrack(8) -e: ALL, NEW, UPDATES, DESTROY; none is all
	Family uint8      // tuple.IPv4, tuple.IPv6, 0: both
	Proto  uint8      // 0: all
	Table  Table      // for lists of flows
	Labels LabelNames // for the output option labels
	Filter *Filter    // nil: all
}

var familyNames = map[string]uint8{"": 0, "ipv4": tuple.IPv4, "ipv6": tuple.IPv6}

// ParseFamily returns the family that conntrack(8) calls name.
func ParseFamily(name string) (uint8, error) {
	family, ok := familyNames[name]
	if !ok {
		return 0, fmt.Errorf("unknown family %q; use ipv4 or ipv6", name)
	}
	return family, nil
}

// ParseProto returns the protocol that conntrack(8) calls name, which may be a
// number.
func ParseProto(name string) (uint8, error) {
	for proto := range 256 {
		if p := uint8(proto); tuple.ProtoName(p) == strings.ToLower(name) {
			return p, nil
		}
	}
	n, err := strconv.ParseUint(name, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("unknown protocol %q; use a name such as tcp, or a number below 256", name)
	}
	return uint8(n), nil
}

// query is f as parameters of a request; parseFormat reads them.
func (f Format) query() url.Values {
	q := url.Values{}
	set := func(key, value string) {
		if value != "" {
			q.Set(key, value)
		}
	}
	set("format", string(f.Form))
	set("table", string(f.Table))
	set("output", strings.Join(f.Output, ","))
	set("events", strings.Join(f.Events, ","))
	for name, family := range familyNames {
		if f.Family == family {
			set("family", name)
		}
	}
	set("labels", f.Labels.encode())
	set("filter", encodeFilter(f.Filter))
	if f.Proto != 0 {
		set("proto", strconv.Itoa(int(f.Proto)))
	}
	return q
}

// view is a Format as the handlers use it.
type view struct {
	form    Form
	options ctfmt.Options
	mask    conntrack.EventMask
	family  uint8
	proto   uint8
	table   Table
	limit   int                       // of a page; 0: all flows
	from    uint32                    // position that the page begins at
	why     func(*conntrack.Flow) Why // nil: not wanted
	matcher
}

func parseFormat(q url.Values) (v view, err error) {
	v.form = Form(q.Get("format"))
	switch v.form {
	case FormJSON, FormText, FormXML, FormSave:
	case "":
		v.form = FormJSON
	default:
		return v, fmt.Errorf("%w: unknown format %q; use json, text, xml or save", errBadRequest, v.form)
	}
	v.table = Table(q.Get("table"))
	switch v.table {
	case "", TableFlows, TableUnconfirmed, TableDying:
	default:
		return v, fmt.Errorf("%w: unknown table %q; use %s, %s or %s", errBadRequest, v.table, TableFlows, TableUnconfirmed, TableDying)
	}
	if err := ParseOutput(q.Get("output"), &v.options); err != nil {
		return v, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	if v.mask, err = ParseEvents(q.Get("events")); err != nil {
		return v, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	if v.family, err = ParseFamily(q.Get("family")); err != nil {
		return v, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	if p := q.Get("proto"); p != "" {
		if v.proto, err = ParseProto(p); err != nil {
			return v, fmt.Errorf("%w: %w", errBadRequest, err)
		}
	}
	if err := v.parsePage(q.Get("limit"), q.Get("cursor")); err != nil {
		return v, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	names, err := parseLabelNames(q.Get("labels"))
	if err != nil {
		return v, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	if v.options.LabelName != nil {
		v.options.LabelName = func(bit int) string { return names[bit] }
	}
	if v.matcher, err = parseFilter(q.Get("filter")); err != nil {
		return v, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	return v, nil
}

// maxPage is how many flows a page may have: they are in memory all at once.
const maxPage = 10000

// parsePage reads which page of the flows is wanted.
func (v *view) parsePage(limit, cursor string) (err error) {
	if limit == "" {
		if cursor != "" {
			return errors.New("cursor goes with limit")
		}
		return nil
	}
	if v.limit, err = strconv.Atoi(limit); err != nil || v.limit < 1 || v.limit > maxPage {
		return fmt.Errorf("limit %q: want 1 to %d", limit, maxPage)
	}
	if v.table != "" && v.table != TableFlows {
		return fmt.Errorf("limit: the table %s comes whole", v.table)
	}
	if cursor != "" {
		n, err := strconv.ParseUint(cursor, 10, 32)
		if err != nil {
			return fmt.Errorf("cursor %q: want what the header %s of the page before says", cursor, headerCursor)
		}
		v.from = uint32(n)
	}
	return nil
}

// ParseOutput sets the options that the comma-separated list names.
func ParseOutput(list string, o *ctfmt.Options) error {
	for _, word := range split(list) {
		switch word {
		case "extended":
			o.Extended = true
		case "id":
			o.ID = true
		case "timestamp":
			o.Timestamp = true
		case "ktimestamp":
			o.KTimestamp = true
		case "why":
			o.Why = func(b []byte, _ *conntrack.Flow) []byte { return b } // until the server knows
		case "labels":
			o.LabelName = func(int) string { return "" } // until the request names them
		default:
			return fmt.Errorf("unknown output option %q; use extended, id, timestamp, ktimestamp, labels or why", word)
		}
	}
	return nil
}

// ParseEvents returns the set of events that the comma-separated list names; an
// empty list names all.
func ParseEvents(list string) (mask conntrack.EventMask, err error) {
	for _, word := range split(list) {
		switch strings.ToUpper(word) {
		case "ALL":
			mask |= conntrack.AllEvents
		case "NEW":
			mask |= conntrack.NewEvents
		case "UPDATES":
			mask |= conntrack.UpdateEvents
		case "DESTROY":
			mask |= conntrack.DestroyEvents
		default:
			return 0, fmt.Errorf("unknown event %q; use ALL, NEW, UPDATES or DESTROY", word)
		}
	}
	if mask == 0 {
		mask = conntrack.AllEvents
	}
	return mask, nil
}

func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

// wants reports whether f passes the filters of v.
func (v *view) wants(f *conntrack.Flow) bool {
	return v.wantsTuple(&f.Tuple[tuple.Original]) && v.matcher.wants(f)
}

// wantsExpect reports whether x passes the filters of v.
func (v *view) wantsExpect(x *conntrack.Expect) bool {
	return v.wantsTuple(&x.Tuple) && v.matcher.wantsExpect(x)
}

// wantsTuple reports whether tuple t is of the family and protocol that v wants.
func (v *view) wantsTuple(t *tuple.Tuple) bool {
	return (v.family == 0 || t.Family == v.family) && (v.proto == 0 || t.Proto == v.proto)
}
