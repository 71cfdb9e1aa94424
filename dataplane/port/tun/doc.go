// Package tun makes interfaces of its own: TUN (Open), whose frames are IP packets,
// and TAP (OpenTAP), whose frames are Ethernet.
//
// The kernel's side of the interface may be in another namespace, with addresses
// and routes set there: a container, or a test's client. What hosts send into it
// comes out of Recv.
//
// With Offload on, queues carry a virtio_net_hdr and the kernel is told
// that we take partial checksums, TSO and, where it can, USO: without, bulk TCP is
// 13 times slower. Those queues are opened with a few ioctls. Plain queues are
// opened through songgao/water, which cannot set the header.
//
// Several queues are a multi-queue interface; the kernel chooses the queue by flow, or
// as Port.Steer says.
// There is no batched system call for TUN: Recv reads, and Send writes, one
// frame a call. Send therefore hands the frame over at once and says at once
// what became of it.
//
// The interface vanishes with the port. If somebody deletes it before, Recv
// finds nothing more, Send returns port.Down, and the descriptor of the queue
// stays open but silent, so that a poller does not spin. Gone says so from then on, and
// whoever wants the interface back has to open another port.
//
// No link-local IPv6 address is generated on these interfaces: nobody needs it,
// and the kernel would send router solicitations and MLD reports into them.
package tun
