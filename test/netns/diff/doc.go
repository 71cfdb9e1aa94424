// Package diff holds a differential test: random packet sequences go through two
// gateways at once, the kernel's nftables and Culvert, and whatever comes out,
// byte by byte, and what connection tracking has learned, line by line, has to
// be the same.
//
// # Theory of operation
//
// Two networks of the same addresses stand side by side:
//
//	client -- lan0 [ kernel: nft masquerade ] wan0 -- server
//	client -- lan0 [ culvert run            ] wan0 -- server
//
// The hosts have no part in it. Frames are written to and read from packet
// sockets on their interfaces, with addresses that route to them but that they
// do not own, so they never answer.
//
// A sequence is a few packets of one flow, each with a step and a side. Its slot
// gives it a client and a server address of its own, so that hundreds of
// sequences run at the same time without knowing of each other. Step by step the
// packets of all sequences are sent to both gateways. After each a marker goes to
// the server and back; when it has returned, every packet sent before it has come
// out or never will, and nothing waits for a time. Between two of the
// steps real time passes, because a UDP flow becomes a stream by its age.
//
// Sequences come from a seed: hosts that know TCP talk to each other, and now and
// then say something wrong. A sequence whose outcomes differ is run again with packets
// taken away until all of those left are needed, and printed as a script.
//
// # Differences
//
// A difference is a defect, or belongs to a class: a predicate with the reason
// why the gateway's way is the better one. Classes are counted and bounded.
//
// CULVERT_LONG=1 runs 20,000 sequences, CULVERT_SEED=n other ones. The tests need
// root and the build tag netns.
package diff
