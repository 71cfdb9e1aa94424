// Package conntrack tracks the flows that pass the gateway.
//
// # Entries
//
// An Entry owns two tuples. A packet in direction d leaves looking like the
// inverse of Tuple(d.Other()); when that equals the packet's own tuple, no
// translation happens. The package never learns why the two differ: nat
// proposes, Claim decides.
//
// Entries are records of 192 bytes, three cache lines without pointers, in
// memory that the collector does not scan: a line for each direction (tuple,
// counters, time of the last packet) and one for what both share (state,
// status, timeout, mark). A flow costs about 224 bytes all in: the record, four
// bytes each for expiry, the free list and its client, two places in the index.
// What few flows have (labels, helper, master, timeouts of a rule) is in an
// extension record.
//
// # Life
//
//	Claim     both tuples are taken under the locks of their shards; lookups
//	          find the entry, but it is not listed, does not expire, makes no
//	          event. May: Track, Confirm, Abort.
//	Confirm   the first packet has left: listed, NEW event, the timer runs.
//	          May: Track, Kill, and end by expiry, early drop or command.
//	dying     out of the index, but its DESTROY event found no room: listed by
//	          DumpDying until it does, at most a thousand for each worker.
//	          End is Kill with a Cause that the event tells.
//	ended     out of the index, OnEnd was called, DESTROY event. Whoever found it
//	          before may still look at it until his batch is over; then the slot
//	          is used again.
//
// # The index
//
// A sharded hash of 64-byte buckets with ten places, each a tag of 16 bits and
// a value slot<<1 | direction. A value that finds its bucket full goes to one of
// the next few; every bucket it passed counts that, so a search ends at the
// first bucket nothing passed. The hash is keyed.
//
// Inserts and deletes take the shard's lock (two shards by ascending index).
// Lookups take none and need no sequence count either, because three things
// hold: a value never moves while it is in the index; a record's tuples never
// change while anybody may look at it (below); and what a lookup finds, it
// compares with the tuple in the record. So a hit is a hit, and a miss was one
// at some moment of the search.
//
// Packets that a lookup finds nothing for are about to claim their flows. It prepares
// that for the whole batch; see type foresight.
//
// # Epochs
//
// A slot returns to the pool only when every worker has begun a new batch, or is
// parked, since the entry left the index; dumps and commands take part through
// seats of their own. See type epochs for the argument.
//
// # Commands
//
// A command that makes a flow (Insert) does what a worker does for a packet, by an actor
// of its own, one command at a time. Counters are not set to zero but have a baseline
// (ZeroFrom), because they belong to the workers.
//
// # Who writes what
//
// A packet stores the time in its direction's line and adds to its counters.
// TCP, SCTP and DCCP state is changed under a lock that is one bit of its own
// word; UDP, ICMP and the rest take no lock, and status bits are set by atomic
// or. Words that others read are accessed through internal/word. See account.go
// for how no packet is lost from the counts when a flow moves between workers.
//
// # Time
//
// Time is counted in ticks of 10 ms and comes in as an argument. The deadline
// of an entry is the time of its last packet plus its timeout, computed when
// somebody asks. An array of four bytes a flow holds a tick that is not later;
// workers walk it once a second in small pieces, and only what looks due there
// is looked at. A lookup never finds an expired entry, however late the walk.
// Timeouts are the table's, or those that a rule asked for (Table.Policy).
//
// # Expectations
//
// A helper announces flows of the one it watches, the master. They are few, so
// one lock guards them; an array of counters tells a lookup whether there can be
// anything to find. An expectation ends when it is met, with its master, after
// its timeout, or when a newer one of its class takes its place.
//
// # Helpers that change lengths
//
// The numbers of the two hosts differ then. Each side of the tracker has those of its
// own host, and acknowledgements come in as their reader gets them; the entry keeps
// the latest Correction.
//
// # Pressure
//
// Every flow counts for its client: the source address, for IPv6 the /64. While
// the table is nearly full, a walk over the clients, a piece with every tick,
// computes max-min fair shares and tells alarms. The Linux profile makes room in
// a full table at the cost of the largest holder, of flows that are not assured
// or about to end, those first that have been silent longest; the RFC profile ends no
// live flow, refuses new ones to who is above his share, and keeps the last tenth of the
// table for clients with few flows that wait for an answer.
//
// # Events
//
// Each worker notes events in a ring of its own and never waits; events of
// expectations have one more. One goroutine puts all in one order and tells the
// listeners: of an event after some silence at once, of those that follow about a
// millisecond later, when it looks by itself, for to be woken would cost the worker. A DESTROY waits for room in its ring, other events are lost when there
// is none; lost ones have numbers, too, and listeners are told how many of each kind.
// After the DESTROY of an entry there is no UPDATE of it. Without listeners events
// cost one load.
//
// Cut joins a list of the table with the events that follow. For that each slot has a
// stamp: the number of the last event of its flow. See type Cut for the argument.
//
// # Another process
//
// Save gives copies of flows with all that is known of them, an Adoption takes such
// copies into another table. It trusts none: each is checked, and then claimed like a
// new flow; only its counters, tracking state and times are what they were.
//
// # A process that is killed
//
// With Config.Memory the records of entries and extensions, the times when they are
// due, expectations and timeouts lie in memory that outlives the process. ReadRemains
// views what is there, with the same words as Save has; nothing else is needed, and
// nothing else is believed: index, clients, and free lists are made anew by the adoption.
// For that each of these is written so that who was interrupted is found out: an entry
// counts when it has a time and is confirmed, and both come last; a lock that is held
// says that what it guards may be torn (a TCP flow is not held to windows then); an
// expectation's number is written last and cleared first; corrections have a count that
// is odd while they change.
//
// # What it does not do
//
// It reads no packets (Segment has what trackers need), chooses no addresses or
// ports, and knows no rules or interfaces. ICMP errors don't come here: the
// engine looks up the packet they carry, and they neither create nor refresh a
// flow.
package conntrack
