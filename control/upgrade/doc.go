// Package upgrade is what two processes say to each other when a gateway goes from one to
// the other: the old one, which runs, and the new one, which it starts.
//
// They have a pair of sockets of type SOCK_SEQPACKET. A message is one record of 8 bytes,
// its kind and how many descriptors belong to it, and its content is a file in memory, the
// first of these descriptors. Only the two have the sockets: what is checked is what a
// program of another version may say, and what a broken one does.
//
//	new   Hello    its version, this protocol, and the digest of the format of flows
//	old   Offer    what there is: interfaces, listeners, numbers; with their descriptors
//	new   Ready    its configuration is in order, and everything is open
//	old   Round    flows that have changed, while packets go on; as often as it helps
//	new   Taken    which of them it could not take
//	old   Final    the last round and all else: the old one's workers have stopped
//	new   Running  packets go on
//	old   Leave    it is the main process of the service now; the old one ends
//
// In place of any of its messages the new one may say Failed. When it does, or ends, or
// says nothing for too long, or what does not belong there, the old one kills it and goes
// on as if nothing had been. The new one has a process group of its own until the old one
// leaves: one that is a wrapper is killed with what it has started.
//
// When the old one ends itself, the new one goes on if it has had Final: then it waits
// until the process has ended for sure, which is more than that nobody answers. Before
// that it ends, too, for it has not all of the flows.
package upgrade
