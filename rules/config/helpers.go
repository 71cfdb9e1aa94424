package config

import (
	"cmp"
	"strconv"
)

// Helpers has the bounds of what helpers may ask for and keep. Zero means the default.
type Helpers struct {
	ClientExpectations int // at a time
	ClientPerSecond    int // announcements
	FlowPerSecond      int // announcements
	LogPerSecond       int // announcements that are logged
	Memory             int // MiB, for all flows
	Edits              int // in flight, of one direction of a flow
	Reorder            int // KiB, of one direction of a flow
}

// clientPerSecond is the default of client_per_second.
const clientPerSecond = 256

// helperKeys describe [helpers].
var helperKeys = []key[Helpers]{
	{"client_expectations", "integer 1-65536", "a quarter of expect_max, at least 16", "256",
		"Flows announced and not begun that one client may have.",
		func(d *decoder, n *node, v *Helpers) { d.integer(n, &v.ClientExpectations, 1, 65536) }},
	{"client_per_second", "integer 1-1000000", strconv.Itoa(clientPerSecond), "1000",
		"Flows that the payloads of one client's flows may announce in a second, all together; a server behind the gateway whose clients transfer many files needs more.",
		func(d *decoder, n *node, v *Helpers) { d.integer(n, &v.ClientPerSecond, 1, 1000000) }},
	{"flow_per_second", "integer 1-1000000", "64", "16",
		"Flows that the payload of one flow may announce in a second.",
		func(d *decoder, n *node, v *Helpers) { d.integer(n, &v.FlowPerSecond, 1, 1000000) }},
	{"log_per_second", "integer 1-1000000", "128", "16",
		"Announcements that are logged in a second; those of one client take half of it at most. The others are counted.",
		func(d *decoder, n *node, v *Helpers) { d.integer(n, &v.LogPerSecond, 1, 1000000) }},
	{"memory", "integer 1-65536", "64", "256",
		"MiB that helpers may keep for all flows. A flow that finds none goes on without its helper.",
		func(d *decoder, n *node, v *Helpers) { d.integer(n, &v.Memory, 1, 65536) }},
	{"edits", "integer 1-65536", "1024", "4096",
		"Replacements in one direction of a connection that its receiver has not acknowledged; what is beyond them goes as it came.",
		func(d *decoder, n *node, v *Helpers) { d.integer(n, &v.Edits, 1, 65536) }},
	{"reorder", "integer 2-16384", "64", "1024",
		"KiB in one direction of a connection that wait for a lost segment; what is beyond them is dropped, and sent again. Fast links over long ways need more.",
		func(d *decoder, n *node, v *Helpers) { d.integer(n, &v.Reorder, 2, 16384) }},
}

// decodeHelpers reads [helpers].
func (d *decoder) decodeHelpers(c *Config) {
	single(d, "helpers", helperKeys, &c.Helpers)
	h, n := &c.Helpers, d.root.table["helpers"]
	if most := c.Conntrack.ExpectMax; most != 0 && h.ClientExpectations > most {
		d.errorf(n.table["client_expectations"].at, "client_expectations: %d is more than all clients may have together: raise expect_max in [conntrack], which is %d", h.ClientExpectations, most)
	}
	if most := cmp.Or(h.ClientPerSecond, clientPerSecond); h.FlowPerSecond > most {
		d.errorf(n.table["flow_per_second"].at, "flow_per_second: %d is more than all flows of a client may announce together: raise client_per_second, which is %d", h.FlowPerSecond, most)
	}
}
