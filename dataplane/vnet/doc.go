// Package vnet is a gateway in one process, for tests and for finding out how a
// configuration behaves: an engine between links that exist in memory, with hosts
// of gVisor's netstack or packet scripts at their ends. It needs no privileges,
// and time is virtual.
//
//	n := vnet.New(t, `
//	[[interface]]
//	name = "lan0"
//	area = "lan"
//	addresses = ["10.0.0.1/24"]
//	...`)
//	client := n.Host("lan0", "10.0.0.5/24")
//	server := n.Host("wan0", "203.0.113.9/24")
//	n.Start()
//	l, _ := server.Listen("tcp", "203.0.113.9:80")
//	c, _ := client.Dial(ctx, "tcp", "203.0.113.9:80")
//
// The configuration is the real one (rules/config), with static addresses; the
// interfaces become memory ports. Everything else is the real code: workers, rules, tables, the
// own stack.
//
// # Who moves packets
//
// The parts are driven, they do not run. Run takes every packet as far as it
// goes and returns when the net is quiet; Advance lets time pass in between.
// Both belong to the test's goroutine. Connections of hosts need a goroutine that
// drives while the test waits for them, and timers: Start makes one, with which time passes by
// itself and Advance adds to it.
//
// # Links
//
// A link is a switch: the gateway's port and any number of hosts. A link
// without hosts belongs to the test, which sends IP packets into it (Link.Send), takes
// what the gateway sent (Link.Take), and has every neighbour question answered for it, except for
// addresses declared silent (Link.Silence).
//
// # Scripts
//
// RunScript plays a text: packets in, packets out, flows and counters, time.
// The language is described with it; testdata has examples.
//
// At the end of a test the connection table is checked and the counter of
// internal defects must be zero.
//
// A net can also be had without a test: Open and Close. The behaviour discovery of
// "culvert selftest" runs in one.
package vnet
