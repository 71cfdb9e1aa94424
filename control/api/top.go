package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// Top is what a gateway did over a short time, seen from one side: its rows are in the
// field that View names.
type Top struct {
	Time    time.Time `json:"time"`
	Seconds float64   `json:"seconds"` // that rates are over
	View    string    `json:"view" enum:"flows,talkers,rules,drops,ports"`
	Sort    string    `json:"sort"`
	Flows   int       `json:"flows"`      // in the table
	Limit   int       `json:"flow_limit"` // most that can be
	Matched int       `json:"matched"`    // flows that the filter wants; the next four are about these
	Packets float64   `json:"packets_per_second"`
	Up      float64   `json:"up_bytes_per_second"`   // original direction
	Down    float64   `json:"down_bytes_per_second"` // reply direction
	Begun   float64   `json:"begun_flows_per_second"`
	Dropped float64   `json:"dropped_packets_per_second"` // of the whole gateway

	TopFlows []FlowRate `json:"top_flows,omitempty"`
	Talkers  []Talker   `json:"talkers,omitempty"`
	Rules    []RuleRate `json:"rules,omitempty"`
	Drops    []DropRate `json:"drops,omitempty"`
	Ports    []PortUse  `json:"ports,omitempty"`
}

// FlowRate is a flow and what it carries.
type FlowRate struct {
	Packets float64 `json:"packets_per_second"`
	Up      float64 `json:"up_bytes_per_second"`
	Down    float64 `json:"down_bytes_per_second"`
	Total   uint64  `json:"bytes"` // since it began
	Flow    *Flow   `json:"flow"`
}

// Talker is who began flows, and what they carry.
type Talker struct {
	Client  string  `json:"client"` // address, for IPv6 the /64; "others": those for whom there is no record of their own
	Zone    uint16  `json:"zone,omitempty"`
	Flows   int     `json:"flows"`
	Begun   float64 `json:"begun_flows_per_second"`
	Packets float64 `json:"packets_per_second"`
	Up      float64 `json:"up_bytes_per_second"`
	Down    float64 `json:"down_bytes_per_second"`
}

// RuleRate is a rule and how much it has to do.
type RuleRate struct {
	Rule
	HitRate  float64 `json:"hits_per_second"`
	ByteRate float64 `json:"bytes_per_second"`
	Flows    int     `json:"flows"` // that it admitted, of those that the filter wants
}

// DropRate is a reason and how many packets end for it.
type DropRate struct {
	Counter
	Rate float64 `json:"packets_per_second"`
}

// Views of Top, and the orders that each can have, the usual one first.
const (
	ViewFlows   = "flows"
	ViewTalkers = "talkers"
	ViewRules   = "rules"
	ViewDrops   = "drops"
	ViewPorts   = "ports"
)

// TopViews are all views.
func TopViews() []string { return []string{ViewFlows, ViewTalkers, ViewRules, ViewDrops, ViewPorts} }

var topOrders = map[string][]string{
	ViewFlows:   {"bytes", "packets", "total"},
	ViewTalkers: {"bytes", "packets", "flows", "begun"},
	ViewRules:   {"hits", "bytes", "flows", "total"},
	ViewDrops:   {"packets", "total"},
	ViewPorts:   {"used", "soon"},
}

// TopOrders returns the orders of a view, the usual one first; nil: there is no such view.
func TopOrders(view string) []string { return topOrders[view] }

// TopRequest asks for Tops. Empty fields have their defaults.
type TopRequest struct {
	View     string        // default: flows
	Sort     string        // default: the first one of TopOrders
	Rows     int           // at most; default 20
	Interval time.Duration // between two; default 2 s. The gateway takes longer when the table is so large that looking at it would take more than a few percent of a processor
	Count    int           // how many; 0: until the reader goes
	Format   Format        // Family, Proto and Filter say which flows count

	wants func(*conntrack.Flow) bool // Format as the gateway has it; nil: all flows
}

// Bounds of a TopRequest.
const (
	topRows        = 20
	maxTopRows     = 10_000
	topInterval    = 2 * time.Second
	minTopInterval = 100 * time.Millisecond
	maxTopInterval = time.Hour
	topFirst       = time.Second // the first answer comes after that at the latest
	topShare       = 40          // of the time, one part may go into looking at flows
	topReaders     = 4           // at the same time: each needs 24 bytes a flow
)

func (t *TopRequest) query() url.Values {
	q := t.Format.query()
	set := func(key, value string) {
		if value != "" && value != "0" {
			q.Set(key, value)
		}
	}
	set("view", t.View)
	set("sort", t.Sort)
	set("rows", strconv.Itoa(t.Rows))
	set("interval", strconv.FormatFloat(t.Interval.Seconds(), 'f', -1, 64))
	set("count", strconv.Itoa(t.Count))
	return q
}

// parseTop reads what query wrote, except for the filter.
func parseTop(q url.Values) (t TopRequest, err error) {
	number := func(key string, usual, least, most float64) float64 {
		if !q.Has(key) {
			return usual
		}
		v, wrong := strconv.ParseFloat(q.Get(key), 64)
		if (wrong != nil || !(v >= least && v <= most)) && err == nil {
			err = fmt.Errorf("%w: %s %q: want a number from %v to %v", errBadRequest, key, q.Get(key), least, most)
		}
		return v
	}
	t.View = cmp.Or(q.Get("view"), ViewFlows)
	orders := topOrders[t.View]
	if orders == nil {
		return t, fmt.Errorf("%w: view %q%s", errBadRequest, t.View, suggest(t.View, TopViews(), ""))
	}
	t.Sort = cmp.Or(q.Get("sort"), orders[0])
	if !slices.Contains(orders, t.Sort) {
		return t, fmt.Errorf("%w: sort %q of view %s%s", errBadRequest, t.Sort, t.View, suggest(t.Sort, orders, ""))
	}
	t.Rows = int(number("rows", topRows, 1, maxTopRows))
	t.Count = int(number("count", 0, 1, 1e9))
	t.Interval = time.Duration(number("interval", topInterval.Seconds(), minTopInterval.Seconds(), maxTopInterval.Seconds()) * float64(time.Second))
	return t, err
}

// top streams what the gateway does.
func (s *Server) top(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	ask, err := parseTop(q)
	if err != nil {
		return err
	}
	for _, own := range paramsTop {
		q.Del(own.name)
	}
	v, err := parseFormat(q)
	if err != nil {
		return err
	}
	select {
	case s.tops <- struct{}{}:
		defer func() { <-s.tops }()
	default:
		return fmt.Errorf("%w: %d others are watching already: end one of them", errBusy, topReaders)
	}
	if s.backend.Table() == nil {
		return ErrNotRunning
	}
	if v.family != 0 || v.proto != 0 || q.Has(paramFilter.name) {
		ask.wants = v.wants
	}
	look := newLook(s.backend, &ask)
	w.Header().Set("Content-Type", mediaTypeLines)
	control, enc := http.NewResponseController(w), json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	w.WriteHeader(http.StatusOK)
	if control.Flush() != nil {
		return nil // the reader is gone
	}
	wait := min(ask.Interval, topFirst)
	for n := 0; ask.Count == 0 || n < ask.Count; n++ {
		select {
		case <-time.After(wait - time.Since(look.at)):
		case <-r.Context().Done():
			return nil
		}
		t := look.again()
		_ = control.SetWriteDeadline(time.Now().Add(topPatience))
		if enc.Encode(t) != nil || control.Flush() != nil {
			return nil // the reader is gone, or does not read
		}
		_ = control.SetWriteDeadline(time.Time{}) // the connection may serve others
		wait = max(ask.Interval, topShare*look.took)
	}
	return nil
}

// topPatience is how long a reader may take to take one answer.
const topPatience = time.Minute

// look is a way of looking at a gateway again and again. It remembers what it saw.
type look struct {
	backend Backend
	ask     *TopRequest
	meter   *conntrack.Meter
	at      time.Time
	took    time.Duration // the last time

	dropped uint64 // all reasons
	rules   map[uint32]Rule
	drops   map[string]uint64
}

// newLook looks for the first time.
func newLook(b Backend, ask *TopRequest) *look {
	l := &look{backend: b, ask: ask, meter: b.Table().NewMeter()}
	l.again()
	return l
}

// again looks once more and returns what happened since the last time.
func (l *look) again() *Top {
	began := time.Now()
	seconds := began.Sub(l.at).Seconds()
	l.at = began
	st := l.backend.Status()
	t := &Top{Time: began, Seconds: seconds, View: l.ask.View, Sort: l.ask.Sort, Flows: l.backend.Table().Len(), Limit: l.backend.Table().Max()}
	t.Dropped = float64(st.Dropped-min(l.dropped, st.Dropped)) / seconds
	l.dropped = st.Dropped
	sum := l.flows(t, seconds)
	t.Matched, t.Packets, t.Begun = sum.flows, float64(sum.packets)/seconds, float64(sum.begun)/seconds
	t.Up, t.Down = float64(sum.bytes[tuple.Original])/seconds, float64(sum.bytes[tuple.Reply])/seconds
	switch l.ask.View {
	case ViewDrops:
		t.Drops = l.topDrops(seconds)
	case ViewPorts:
		t.Ports = topPorts(st.Ports, l.ask)
	}
	l.took = time.Since(began)
	return t
}

// carried is what some flows carried.
type carried struct {
	flows, begun int
	packets      uint64
	bytes        [tuple.NumDirections]uint64
}

func (c *carried) add(r *conntrack.Reading) {
	c.flows++
	if r.Began {
		c.begun++
	}
	c.packets += r.Packets
	c.bytes[tuple.Original] += r.Bytes[tuple.Original]
	c.bytes[tuple.Reply] += r.Bytes[tuple.Reply]
}

// flows looks at every flow once, fills in the rows of views of flows, and returns the
// sum of those that are wanted.
func (l *look) flows(t *Top, seconds float64) (sum carried) {
	var (
		f       conntrack.Flow
		flows   = newRanking[FlowRate](l.ask.Rows)
		talkers []carried
		admits  map[uint32]int
	)
	switch l.ask.View {
	case ViewTalkers:
		talkers = make([]carried, l.backend.Table().Clients())
	case ViewRules:
		admits = make(map[uint32]int)
		for id := range l.rules {
			admits[id] = 0
		}
	}
	rank := flowKeys[l.ask.Sort]
	l.meter.Pass(func(r *conntrack.Reading) {
		if l.ask.wants != nil {
			if r.Copy(&f); !l.ask.wants(&f) {
				return
			}
		}
		sum.add(r)
		switch {
		case talkers != nil:
			talkers[r.Client].add(r)
		case admits != nil:
			if n, ok := admits[r.Rule]; ok { // only rules in force: there is a bound
				admits[r.Rule] = n + 1
			}
		case l.ask.View == ViewFlows && flows.wants(rank(r)):
			r.Copy(&f)
			flows.add(rank(r), FlowRate{Packets: float64(r.Packets) / seconds, Up: float64(r.Bytes[tuple.Original]) / seconds,
				Down: float64(r.Bytes[tuple.Reply]) / seconds, Total: r.Total, Flow: flowFrom(&f)})
		}
	})
	switch l.ask.View {
	case ViewFlows:
		t.TopFlows = flows.sorted()
	case ViewTalkers:
		t.Talkers = l.topTalkers(talkers, seconds)
	case ViewRules:
		t.Rules = l.topRules(admits, seconds)
	}
	return sum
}

var flowKeys = map[string]func(*conntrack.Reading) float64{
	"bytes":   func(r *conntrack.Reading) float64 { return float64(r.Bytes[tuple.Original] + r.Bytes[tuple.Reply]) },
	"packets": func(r *conntrack.Reading) float64 { return float64(r.Packets) },
	"total":   func(r *conntrack.Reading) float64 { return float64(r.Total) },
}

// key is what a talker is ranked by.
func (c *carried) key(order string) float64 {
	switch order {
	case "packets":
		return float64(c.packets)
	case "flows":
		return float64(c.flows)
	case "begun":
		return float64(c.begun)
	}
	return float64(c.bytes[tuple.Original] + c.bytes[tuple.Reply])
}

func (l *look) topTalkers(all []carried, seconds float64) []Talker {
	top := newRanking[Talker](l.ask.Rows)
	for n := range all {
		c := &all[n]
		key := c.key(l.ask.Sort)
		if c.flows == 0 || !top.wants(key) {
			continue
		}
		talker := Talker{Client: "others", Flows: c.flows, Begun: float64(c.begun) / seconds, Packets: float64(c.packets) / seconds,
			Up: float64(c.bytes[tuple.Original]) / seconds, Down: float64(c.bytes[tuple.Reply]) / seconds}
		if addr, zone, ok := l.backend.Table().Client(uint32(n)); ok {
			talker.Client, talker.Zone = addr.String(), zone
			if addr.Is6() {
				talker.Client += "/64"
			}
		}
		top.add(key, talker)
	}
	return top.sorted()
}

func (l *look) topRules(admits map[uint32]int, seconds float64) []RuleRate {
	top, now := newRanking[RuleRate](l.ask.Rows), make(map[uint32]Rule)
	for _, r := range l.backend.Rules() {
		old := l.rules[r.ID]
		now[r.ID] = r
		rate := RuleRate{Rule: r, Flows: admits[r.ID],
			HitRate: float64(r.Hits-min(old.Hits, r.Hits)) / seconds, ByteRate: float64(r.Bytes-min(old.Bytes, r.Bytes)) / seconds}
		top.add(rate.key(l.ask.Sort), rate)
	}
	l.rules = now
	return top.sorted()
}

// key is what a rule is ranked by.
func (r *RuleRate) key(order string) float64 {
	switch order {
	case "bytes":
		return r.ByteRate
	case "flows":
		return float64(r.Flows)
	case "total":
		return float64(r.Hits)
	}
	return r.HitRate
}

func (l *look) topDrops(seconds float64) []DropRate {
	top, now := newRanking[DropRate](l.ask.Rows), make(map[string]uint64)
	for _, c := range l.backend.Counters() {
		now[c.Reason] = c.Count
		rate := DropRate{Counter: c, Rate: float64(c.Count-min(l.drops[c.Reason], c.Count)) / seconds}
		switch {
		case c.Count == 0: // never
		case l.ask.Sort == "total":
			top.add(float64(c.Count), rate)
		default:
			top.add(rate.Rate, rate)
		}
	}
	l.drops = now
	return top.sorted()
}

func topPorts(all []PortUse, ask *TopRequest) []PortUse {
	top := newRanking[PortUse](ask.Rows)
	for _, p := range all {
		key := float64(p.Used+p.Kept) / float64(max(p.Total, 1))
		if ask.Sort == "soon" && p.FullIn > 0 {
			key = 1 + 1/p.FullIn
		}
		top.add(key, p)
	}
	return top.sorted()
}

// Top streams what the gateway does, until ctx ends, n Tops came with a Count of n, or
// each returns false.
func (c *Client) Top(ctx context.Context, t TopRequest, each func(*Top) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, err := c.stream(ctx, "/v1/top", t.query())
	if err != nil {
		return err
	}
	defer body.Close()
	for dec := json.NewDecoder(body); ; {
		var top Top
		switch err := dec.Decode(&top); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("answer of the gateway: %w", err)
		}
		if !each(&top) {
			return nil
		}
	}
}
