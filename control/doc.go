// Package control is a gateway: it turns a configuration into a running
// dataplane.Engine, keeps the two and the kernel in step, and ends it in order.
// Programs embed a gateway by this package; `culvert run` is a thin one.
//
// # Theory of operation
//
// The gateway is described by two inputs: the configuration, with interfaces
// added and removed at run time, and what the kernel says about interfaces,
// addresses and routes (package kernel). From these a plan is computed without
// side effects. Everything that can be refused is refused there.
//
// One function, reconcile, makes reality equal to a plan, whatever the cause:
// start, reload, an address that came, an interface that went. It opens what is
// new, compiles the rules, hands one dataplane.State to the engine, and closes
// what is gone, in this order; a failure before the engine took the state closes
// what was opened and leaves the old state running. When the engine has taken it
// every worker works with it, so a reload that returned is in force.
//
//	configuration ─┐
//	run-time adds ─┼─ makePlan ── reconcile ── Engine.Apply, Host.SetAddresses
//	kernel ────────┘   (pure)     (g.mu held)
//
// Interfaces of the gateway are owned (package own): the kernel neither answers
// nor sends on them.
//
// # What flows lose
//
// A plan may lack what flows depend on: an address of the gateway or of a pool, an
// interface, or the way out that an address belongs to. The new state is applied
// first, with the lost addresses in it, so that nothing leaves with them any more;
// then such flows end with notice (ending.go), some ten thousand a second.
//
// A reload may also leave flows that its rules would not admit or would translate
// otherwise. They are found after it is in force, and kept, ended or decided anew as
// on_change says; log and status tell how many (reload.go). A dry run makes the plan
// and its state, with ports imagined where none is open, and compares without applying.
//
// # Uplinks
//
// An interface with a check has a goroutine that probes beyond it, round after round
// (uplink.go). When it has changed its mind it asks for a new plan, like a change of
// the kernel: routes by routers of an uplink that is down are in it, marked as such,
// so that probes and answers still find that way. One whose link is down is down at
// once.
//
// # Requested ports
//
// With [pcp] hosts inside ask for external ports (package pcp; pcp.go has its sockets,
// one for each address of the areas served, on the own stack). After every plan the
// service looks which ports the rules would still give; at the end it is closed
// before the engine.
//
// # Exports
//
// Flow logs and IPFIX collectors (packages flowlog and ipfix; exports.go) have
// subscriptions to the connection table; what else they are told, of blocks, refusals,
// mappings and thresholds, comes from the goroutines that follow the engine. A reload
// opens new ones first, which may refuse it, keeps those whose settings stay, and ends
// the others after what they have. At the end they are closed before the engine, over
// whose interfaces they may send.
//
// # Failures
//
// What the kernel refuses, or cannot be asked for want of descriptors, is left out or
// left as it is, and tried again a second later (spaces.go); everything else goes on. An
// interface that the gateway made is made anew when somebody has deleted it. Workers
// that begin no batch for a second are named in log and status (still.go), and the
// service manager hears nothing while one hangs in a batch (watchdog.go).
//
// # Upgrades
//
// Upgrade starts the program anew and talks with it (package upgrade has the words,
// handover.go this side, heir.go the other). All that takes time is done while packets
// go on: the new process reads its configuration, takes what there is by its descriptors
// and opens what is new, and takes the flows in rounds, each with what has changed since
// the one before. Then requests that change something wait, listeners pause, the workers
// stop, and the last round goes over with the places in the rings, counters, neighbours
// and requested ports; the new workers begin, and the old process ends without giving
// anything back. Until it has heard that they began it can go on itself: it kills the
// other one, looks where its rings stand, and starts its workers again.
//
// # Namespaces
//
// A gateway lives in the network namespace of the thread that called New. It
// keeps a thread there, and one in every namespace that an interface is said to
// be in, so that what is opened later is opened in the right place whatever
// thread the caller is on.
//
// # Instances
//
// There is no global state and no fixed port: many gateways run side by side in
// one process, one namespace or one machine as long as they own different
// interfaces and, if they have one at all, different control sockets.
package control
