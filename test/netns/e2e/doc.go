// Package e2e holds end-to-end scenarios: real hosts in network namespaces send
// real traffic through a gateway. It has tests only, behind the build tag netns,
// and they need root; `make netns` runs them. What the gateway does to the machine
// that it runs on is tested in package box, beside.
//
// # Theory of operation
//
// Nearly every scenario runs twice, as gateway=kernel and gateway=culvert, over
// IPv4 and IPv6, in the same network:
//
//	first    10.1.0.11 ┐
//	                   ├ lan0   ┌─────────┐ wan0 ─ up0 ┌────────┐ down0 ─ server
//	second   10.1.0.12 ┘        │ gateway │            │ router │         198.51.100.9
//	visitor  10.2.0.11 ─ guest0 └─────────┘            └────────┘
//
// The kernel proves the scenario; Culvert has to show the same to the hosts and
// print the same flow lines. What is expected is written once, so a difference
// between the two can not hide in the test: flow lines are given in full, with "*"
// for what is chosen at random, and timeouts may be two seconds off.
//
// The router knows the way back to the inside networks. That the outside does
// not reach them is the gateway's doing.
//
// Nothing waits for time to pass. "Nothing arrived" is told by a capture after a
// later exchange over the same links has come through.
//
// GATEWAY=kernel or culvert limits a run to one kind, CULVERT_BIN names a binary
// to use, and CULVERT_LONG=1 moves a gigabyte where it is a quarter otherwise. A
// binary built with -race fails the test that it finds a race in, by its exit
// status; set GORACE=atexit_sleep_ms=0, or every command takes a second.
package e2e
