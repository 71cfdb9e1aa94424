// Package port is the border between the data path and network interfaces:
// one small interface, and below it one package for each way of moving frames.
//
//	afpacket  an interface of the kernel, through packet sockets
//	tun       an interface that we make: TUN, or TAP for the exception path
//	mem       in-memory ports for tests
//	pcap      replays a capture file
//	steer     which queue takes which packets
//	own       TCX programs that keep the kernel's stack off an interface
//
// # Ownership of memory
//
// A frame lives where it was received. Recv lends memory until Release, Send
// borrows memory until Flush, and a worker therefore does, for each batch:
//
//	n := q.Recv(pkts)
//	for i := range pkts[:n] { ...; out.Send(&pkts[i]) }
//	for each port touched { out.Flush() }
//	q.Release()
//
// Every driver leaves packet.Headroom writable bytes before a received frame,
// so that a frame can leave by a port of another link kind, or with a VLAN tag,
// without being copied.
//
// # Offloads
//
// Frames come with their virtio_net_hdr in Packet.Offload: up to 64 KB long,
// with partial checksums. Senders must keep it right: csum_start counts from the
// start of the frame, so it moves by 14 when the frame crosses from an Ethernet
// port to a TUN. Fit is the MTU check that the kernel does not do.
//
// # Failure
//
// Nothing blocks and nothing retries without bound. An interface that goes down
// or away makes Send return Down and Recv return 0; Refresh says so. A
// frame that did not leave is in the result of Send or of Flush, never silent.
package port
