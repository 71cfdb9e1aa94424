// Package kernel reads what the kernel knows of a namespace's interfaces, and
// says when that changes.
//
// A Snapshot is a plain value: links, their addresses, and the unicast routes of
// the main table, in a fixed order, so that two of them compare. A Watcher takes
// snapshots over netlink and signals changes. The signal carries nothing: a
// reader takes the next snapshot and compares. So a lost netlink message (the
// socket overran), a burst of thousands of them, and an interrupted dump are
// all the same harmless event, and nothing here can drift from the truth.
//
// What is left out: IPv4 routes of scope host, multicast and blackhole routes,
// link-local and multicast prefixes, routes of other tables, policy rules. Equal-cost
// routes keep their first live next hop.
package kernel
