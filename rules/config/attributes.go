package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/culvert/alg/registry"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/rules"
)

// helpers are the names that rules may use.
var helpers = registry.New().Names()

func parseHelper(s string) (string, error) {
	if !slices.Contains(helpers, s) {
		return "", fmt.Errorf("unknown helper %q; %s", s, suggest(s, helpers))
	}
	return s, nil
}

func (r *draft) readHelperOptions(d *decoder, n *node) {
	for _, item := range d.items(n) {
		s, ok := d.text(item)
		if !ok {
			continue
		}
		i := slices.IndexFunc(rules.HelperOptions[:], func(o rules.HelperOption) bool { return o.Name == s })
		if i < 0 {
			names := make([]string, len(rules.HelperOptions))
			for j, o := range rules.HelperOptions {
				names[j] = o.Name
			}
			d.errorf(item.at, "unknown option %q; %s", s, suggest(s, names))
			continue
		}
		*rules.HelperOptions[i].Of(&r.HelperOptions) = true
	}
}

// readLimit reads a rate; burst and per come later.
func (r *draft) readLimit(d *decoder, n *node) {
	s, ok := d.text(n)
	if !ok {
		return
	}
	text, not := strings.CutPrefix(s, "!")
	rate, err := rules.ParseRate(text)
	if err != nil {
		d.errorf(n.at, "%v", err)
		return
	}
	r.If.Limit = &rules.Limit{Rate: rate}
	if not {
		r.If.Limit.Sense = rules.IsNot
	}
}

// readFlowLimit reads a number of flows.
func (r *draft) readFlowLimit(d *decoder, n *node) {
	s, ok := d.scalarText(n)
	if !ok {
		return
	}
	text, not := strings.CutPrefix(s, "!")
	most, err := strconv.ParseUint(text, 10, 32)
	if err != nil || most == 0 || most > rules.MaxFlowLimit {
		d.errorf(n.at, "%q is not a number of flows, 1 to %d", s, rules.MaxFlowLimit)
		return
	}
	r.If.Flows = &rules.FlowLimit{Most: uint32(most)}
	if not {
		r.If.Flows.Sense = rules.IsNot
	}
}

// maxLogText bounds the text of a log line, bytes. netfilter takes 127.
const maxLogText = 127

func (r *draft) readLog(d *decoder, n *node) {
	s, ok := d.text(n)
	switch {
	case !ok:
	case len(s) > maxLogText || strings.Map(visible, s) != s:
		d.errorf(n.at, "the text of a log line has at most %d bytes, all of them printable", maxLogText)
	default:
		r.Log = &rules.Log{Prefix: s, Rate: defaultLogRate}
	}
}

// defaultLogRate keeps a log readable.
var defaultLogRate = rules.Rate{Count: 10, Per: time.Second, Burst: 10}

// finishAttributes puts together what several keys say.
func (d *decoder) finishAttributes(r *draft) {
	if l := r.If.Limit; l != nil {
		l.Share = r.share
		if r.burst != 0 {
			l.Rate.Burst = uint32(r.burst)
		}
	}
	if r.Log != nil && r.has("log_rate") {
		r.rate.Burst = defaultLogRate.Burst
		r.Log.Rate = r.rate
	}
	if r.If.Window.IsAny() {
		r.If.Window.Zone = nil
	}
	d.checkFirstPacket(r, "timeout", "timeouts", r.Timeouts != nil)
	d.checkFirstPacket(r, "helper", "helper", r.Helper != "")
	d.checkFirstPacket(r, "flows_per_source", "place", r.If.Flows != nil)
	if proto := &r.If.Proto; r.Reject == rules.WithReset && !(proto.Sense == rules.Is && slices.Equal(proto.Values, []uint8{tuple.TCP})) {
		d.errorf(r.at("reject_with"), "reject_with: only TCP has resets: add proto = \"tcp\", or leave the key out, which resets TCP and answers others by ICMP")
	}
}

// checkFirstPacket wants a rule that gives a flow something to see its first packet.
func (d *decoder) checkFirstPacket(r *draft, key, what string, gives bool) {
	state, direction := &r.If.State, &r.If.Direction
	switch {
	case !gives:
	case state.Sense == rules.Is && !state.IsAny() && !r.If.Names(rules.New) && !r.If.Names(rules.Related):
		d.errorf(r.at(key), "%s: a flow gets its %s with its first packet, which is new or related: delete the key, or add one of these to state", key, what)
	case !direction.IsAny() && (direction.Values[0] == tuple.Reply) == (direction.Sense == rules.Is):
		d.errorf(r.at(key), "%s: a flow gets its %s with its first packet, which is of the original direction: delete the key, or direction", key, what)
	}
}
