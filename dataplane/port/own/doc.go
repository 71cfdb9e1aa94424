// Package own takes an interface away from the kernel's network stack.
//
// Packet sockets see a frame before TCX ingress, and bypass TCX egress when they send.
// So a program that drops at both hooks leaves packet sockets the only
// users of the wire: the kernel answers no ARP, opens no connection, resets
// none, and sends no router solicitation or MLD report of its own, although addresses
// may be configured. This is cheaper and safer than to switch forwarding off.
//
//	hook                   mark          verdict
//	interface, ingress     ReinjectMark  pass: the gateway gives it to the kernel
//	                       other         drop
//	interface, egress      OursMark      pass: the gateway sends it through the qdisc
//	                       other         drop, or with a host path mark and redirect to the TAP
//	TAP, egress            ReinjectMark  pass: the gateway reads it
//	                       other         drop: the kernel speaks on the TAP itself
//	TAP, ingress           all           mark ReinjectMark, redirect into the interface
//
// # Host path
//
// With a HostPath, what the box sends on the interface comes out of a TAP's
// descriptor instead of the wire, and what is written there enters the interface as
// if it had been received. The gateway reads and writes that TAP, and its packet
// sockets ignore frames with ReinjectMark. The box keeps addresses, routes and
// daemons as they are; every frame of theirs goes through the gateway.
//
// # Lifetime
//
// The programs hang on TCX links, which need Linux 6.6. With Release the links
// are file descriptors only and vanish with the process, even on kill -9.
// With Hold they are pinned in a BPF file system and keep dropping when the process
// is gone: nothing leaks between a crash and the next start. Take then
// attaches new programs in front of the held ones before it replaces these, so
// that there is no gap; ReleaseHeld ends it for good. Deleting the interface
// or its namespace ends all of this.
//
// The programs are written in BPF assembly here, a dozen instructions each: no compiler,
// no object files.
package own
