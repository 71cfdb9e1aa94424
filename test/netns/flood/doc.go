// Package flood has hosts flood a gateway, and measures what others notice: through
// Culvert, and through the kernel's NAT in its place. It has tests only, behind the build
// tag netns, and they need root:
//
//	make floods
//
// runs all floods and prints a table; a short selection belongs to `make netns`.
//
// # Theory of operation
//
// A user behind the gateway has connections and datagrams to a server outside, all the
// time, each at a fixed rate that the machine can bear, and opens new connections, over IPv4
// and IPv6 in turns. A flooder has two links of his own to the gateway, one inside and one outside, and sends
// packets on one of them at a fixed rate.
//
// Each flood runs twice, in a network that was just made. The first time a XDP program
// drops it where the gateway would receive it: that is the reference, which pays for the
// flooder, too, as he needs the same processors. The second time it gets in. What is kept
// is what the user got the second time, as a share of the reference:
//
//   - bytes that came back on connections that lived before the flood;
//   - datagrams that came back, small ones, and such as travel in fragments;
//   - new connections that were served within a second.
//
// When the flood ends the user goes on, and the time is taken until new connections are
// served at once again. How many flows the gateway holds, and how much memory it has taken,
// is read while the flood runs.
package flood
