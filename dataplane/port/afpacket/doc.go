// Package afpacket moves frames through packet sockets: an interface of the
// kernel, with all its offloads on.
//
// # Receive
//
// One socket for each queue, in a fanout group when there are several, which a
// program of ours divides (Port.Steer; package steer). A
// TPACKET_V2 ring of 2112-byte slots (33 cache lines: a power of two would put the
// headers of all slots into the same cache sets, and loses 30 %) takes ordinary
// frames with their virtio_net_hdr. A longer frame, a GSO super-packet of up to
// 64 KB, leaves a truncated copy in its slot, flagged TP_STATUS_COPY, and waits
// whole in the socket's queue (PACKET_COPY_THRESH): one recvfrom fetches it, in
// ring order. When that queue is full, the flag is missing and the frame is lost:
// Stats.RxTruncated. V3 rings are faster at overload but add up to 1 ms each way.
//
// Frames of 16 KB and more have a ring of 68 KB slots (large.go), so that the kernel copies
// them on the sender's processor, and not the worker on its own, which copies them once
// more to send them: datagrams in super-packets pass 1.4 times as fast and more. The
// ring's socket is one more of the group, whose program looks at the length. Recv takes
// from both rings what arrived first, by the kernel's time stamps: what one processor has
// received keeps its order. With another Fanout than ours all frames are in one ring.
//
// A socket is bound only when ring, filter and group are complete, and
// behind a filter that takes nothing until all queues are, so that no frame is
// seen twice while the group grows. The filter then ignores frames marked
// port.ReinjectMark: those are ours, on their way to the kernel.
//
// Single 802.1Q tags arrive stripped, in Packet.VLAN. Other tag protocols are
// dropped and counted.
//
// Another process that takes the port over gets the sockets of both rings, and where it is
// to go on in each.
//
// # Transmit
//
// Ordinary frames are copied into a TPACKET_V2 TX ring, one system call for up
// to 64. Their hdr_len is the frame's length: the kernel then copies them into
// linear memory instead of referencing the ring, which veth would copy again.
// Frames longer than a slot, and all GSO frames, go by sendmmsg straight out
// of the memory they were received into (for 64 KB frames the ring costs
// twice). Whoever is used second waits until the first is flushed: order holds.
//
// All of these bypass the queueing discipline. There the kernel drops GSO frames that
// the device cannot segment itself; a refused one takes a third socket, which does
// not bypass and lets the kernel segment, and after a few refusals in a row
// all frames of that GSO type do, but for one now and then: the device may only have
// been full.
//
// # Failure
//
// A ring slot that the kernel refuses (no buffer, full backlog of a
// veth peer) is tried again a few times, then what is left is taken back and
// counted. An interface that is down refuses everything with port.Down, and works
// again when it comes up. A deleted one stays down: open another port.
//
// # Concurrency
//
// A queue belongs to one worker. Port methods, and Stats, are for everybody.
package afpacket
