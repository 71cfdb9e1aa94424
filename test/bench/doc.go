// Package bench holds what measures the gateway from outside, and tests of it.
//
//	dut    the gateway as a device under test of a side-by-side bench
//	plot   diagrams out of result files
//	twin   the hot path of the connection tracker in C, for the ratio
//	wire   a gateway between two hosts in network namespaces, beside the kernel's
//
// Benchmarks of packages stand in these. make bench and make bench-wire keep what they
// print in result files; make bench-compare lets two revisions take turns. All use the
// text format of Go's benchmarks, with the facts of the machine as "key: value" lines.
package bench
