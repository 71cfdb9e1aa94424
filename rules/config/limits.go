package config

// Limits bound queues and tables that have no section of their own.
type Limits struct {
	Fragments         int // datagrams whose fragments are followed or wait
	FragmentMemory    int // MiB of fragments that wait
	Neighbours        int
	WaitingPackets    int // for the address of a neighbour, of each worker
	HostQueue         int // slots of 2 KiB
	EventRing         int // of each worker
	RequestedPorts    int // of all hosts
	SocketConnections int
}

// defaultLimits are the settings without [limits].
var defaultLimits = Limits{
	Fragments: 16384, FragmentMemory: 4, Neighbours: 16384, WaitingPackets: 256, HostQueue: 1024,
	EventRing: 4096, RequestedPorts: 65536, SocketConnections: 256,
}

// limitKeys describe [limits].
var limitKeys = []key[Limits]{
	{"fragments", "integer 16-1000000", "16384", "65536",
		"Datagrams that are in pieces at one time; one source may have a sixteenth of them. A full table loses the oldest one.",
		func(d *decoder, n *node, v *Limits) { d.integer(n, &v.Fragments, 16, 1000000) }},
	{"fragment_memory", "integer 1-65536", "4", "64",
		"MiB of fragments that wait for the first one, or to be joined; those of one source have an eighth of it.",
		func(d *decoder, n *node, v *Limits) { d.integer(n, &v.FragmentMemory, 1, 65536) }},
	{"neighbours", "integer 64-65535", "16384", "65535",
		"Hosts whose link-layer address is known or asked for. A full table loses one that nobody has used lately.",
		func(d *decoder, n *node, v *Limits) { d.integer(n, &v.Neighbours, 64, 65535) }},
	{"waiting_packets", "integer 16-65536", "256", "1024",
		"Packets of each worker that wait for the link-layer address of a neighbour, 16 for each neighbour; 2.2 KiB each.",
		func(d *decoder, n *node, v *Limits) { d.integer(n, &v.WaitingPackets, 16, 65536) }},
	{"host_queue", "integer 64-65536", "1024", "4096",
		"Slots of 2 KiB in the queues to and from the gateway's own stack, rounded up to a power of two.",
		func(d *decoder, n *node, v *Limits) { d.integer(n, &v.HostQueue, 64, 65536) }},
	{"event_ring", "integer 64-1000000", "4096", "65536",
		"Events of flows, 256 bytes each, that one worker may be ahead of those who follow them, rounded up to a power of two.",
		func(d *decoder, n *node, v *Limits) { d.integer(n, &v.EventRing, 64, 1000000) }},
	{"requested_ports", "integer 1-1000000", "65536", "1000",
		"External ports that all hosts together may have by [pcp].",
		func(d *decoder, n *node, v *Limits) { d.integer(n, &v.RequestedPorts, 1, 1000000) }},
	{"socket_connections", "integer 4-10000", "256", "32",
		"Connections to the control socket; each stream of events, trace and culvert top has one.",
		func(d *decoder, n *node, v *Limits) { d.integer(n, &v.SocketConnections, 4, 10000) }},
}
