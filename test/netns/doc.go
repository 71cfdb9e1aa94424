// Package netns builds small networks out of Linux network namespaces: hosts,
// links between them, and in the middle a gateway, which is either Culvert or
// the kernel's own nftables. Tests use it to send real traffic through real
// network stacks; `culvert demo` uses it outside of tests.
//
// # Theory of operation
//
// A [Topology] is plain data. [Build] turns it into a [Lab]:
//
//	Host   a named namespace, visible to `ip netns` as PREFIX-PID-N-NAME
//	Link   a veth pair; with more than two ends, a bridge in a namespace of its own
//	Gateway  nft and sysctls (Kernel), or a child process with a configuration (Culvert)
//
// All of it is made over netlink; no ip(8) is run. Addresses are usable when
// Build returns: duplicate address detection is off and every link has its carrier.
//
// A namespace belongs to a thread, and goroutines wander between threads, so a
// plain net.Dial would leave from an arbitrary namespace. [Host.Do] runs a
// function on a thread that has entered the namespace and is thrown away
// afterwards. A socket keeps the namespace it was made in, so [Host.Dial],
// [Host.Listen] and [Host.ListenPacket] make theirs that way and hand them out
// for use on any goroutine. Goroutines started by the function of Do are not in
// the namespace, and neither is what opens sockets later, like an http.Client:
// give it the host's Dial.
//
// Commands ([Host.Exec], [Host.Start]) are started by one thread per host, which lives
// as long as the lab. Children are bound to it with PDEATHSIG, so that they
// also end when this process is killed.
//
// # Cleaning up
//
// [Lab.Close] ends processes, removes interfaces and namespaces and deletes the
// lab's folder; [ForTest] arranges for it even when the test panics. What a
// killed run left behind carries the pid of that run, and Build removes
// everything of its own prefix whose pid is gone.
//
// # The kernel as the oracle
//
// A scenario that runs with both kinds of gateway ([Kinds]) is proven by
// the kernel before it judges Culvert. Flow lines have one form for both:
// conntrack(8) prints the kernel's, `culvert conntrack` ours, [ParseFlow] reads either.
//
// Root is needed for all of it. Names, addresses and routes outside of the
// namespaces are never touched.
package netns
