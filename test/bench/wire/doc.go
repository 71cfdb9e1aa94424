// Package wire measures a gateway between two hosts, each in a network namespace of
// its own, and the kernel's nftables masquerade in the same place. It has benchmarks
// only, behind the build tag netns, and a test that they measure what they say; they
// need root:
//
//	make bench-wire
//
// A generator in the client's namespace sends UDP frames of 60 bytes by a packet
// socket, as fast as it can or at a rate; the server's kernel counts and drops them.
// Request and response are one thread each with sockets that block. On a machine with few
// processors generator and gateway share them: figures are of the whole, and mean
// something beside those of the kernel in the same run.
package wire
