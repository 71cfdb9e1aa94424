// Package host is the gateway's own network stack: gVisor's netstack, seen from
// two sides.
//
// # The two sides
//
// Each Ethernet port has a link NIC. It carries the port's addresses and the
// proxied ones (addresses of nat pools and dnat rules that lie on the link),
// only to answer ARP and neighbour solicitations for them. Its frames
// go straight out of the port through a port.Sender; ARP and neighbour
// discovery are never routed, tracked or translated. Nothing else gets into a
// link NIC, and nothing else leaves it, whatever netstack would like to send.
//
// One more NIC without a link layer, host0, carries all of the gateway's own
// addresses for transport. A packet for the gateway, already translated by the
// engine, enters there; whatever netstack emits on host0 (ping replies,
// resets, the segments of in-process services) is received by the engine from
// the host port, like a packet from any other port, and is tracked, translated
// and routed. netstack's default route is host0, so no in-process service can
// get past the engine. Whether somebody may reach the gateway at all is the
// engine's decision: what it delivers, netstack answers.
//
// # The way of a packet in
//
//	worker            DeliverLink, DeliverLocal, Resolve: copy into a ring, never block
//	pump (goroutine)  link ring: neighbour table, then the link NIC
//	                  ask ring: neighbour table
//	                  local ring: host0
//	netstack          protocol handlers, on the pump or its own goroutines
//
// and out:
//
//	netstack          host0 copies into the host port's ring, wakes the worker
//	worker            Recv reads the packets where they are, Release frees them
//
// Workers never call netstack, because it locks and allocates. Rings are
// bounded, made once and counted when full. Each has its own, and local packets
// have short turns, so a flood for the gateway itself neither displaces nor delays
// what forwarding needs; frames to everybody leave a quarter of the link ring to
// those for the gateway alone. Bulk TCP crosses as 64 KB GSO
// packets with partial checksums: 790 MB/s from one stack to another on two
// cores (BenchmarkTransfer, November 2026).
//
// # Neighbours
//
// The addresses of neighbours are kept here and not in netstack's cache, which
// holds 512 entries a NIC, does not believe gratuitous ARP and has no way to ask for
// a verification. Ours (neigh.go) is a map per link, bounded by
// Config.Neighbours, with no timer but for open questions. The engine's
// own table (dataplane/route) decides when an address wants verifying
// and asks by Resolve; three probes a second apart answer Reachable or Failed.
//
//	state       meaning                               leaves by
//	unresolved  asked, MAC unknown, broadcast probes  an answer; silence: Failed, forgotten
//	known       MAC learned or confirmed              Resolve later than confirmFor: verifying
//	verifying   MAC in use, unicast probes, the last  an answer; silence: Failed, forgotten
//	            one broadcast
//
// The engine sees to it that questions are few and shared fairly among those whose
// packets ask (dataplane/route). A neighbour in use is not given up while its answers
// may be lost in the link ring, for up to patience.
//
// A neighbour that announces another MAC is believed (the next hop of a failover
// pair moves so), but not twice within a second: then everybody is asked when the
// second is over.
//
// # Probes
//
// Ping and Knock (probe.go) ask a host from one of the gateway's own addresses; the
// engine sends that by the port which has the address. Verify asks a neighbour,
// however lately it has answered.
//
// # Limits
//
// The gateway does not perform duplicate address detection, router
// discovery or address configuration, and sends no MLD reports. Link-local IPv6
// addresses exist on the link side only: they answer neighbour discovery and
// may be the next hop of hosts.
package host
