// Package demo is `culvert demo`: a whole network on one machine, with real
// traffic through it.
//
// Three network namespaces are made: a client, a gateway and a server. The
// gateway is a child process of this program inside the middle one. The traffic is made by this process
// with sockets that live in the client's and the server's namespace, so the
// kernels of both ends are real and nothing has to be installed. Interfaces
// keep their default offloads.
//
// Each step runs on IPv4 and IPv6 and says what it saw, with the line that the
// gateway's flow table has for it. The end is a table of events of one
// connection and the gateway's counters. Whatever happens, interrupts included,
// everything is removed in the end; a run that was killed is cleaned up by the next one.
//
// With --gateway kernel the same steps run through nftables: that proves the
// steps, and shows what is different.
package demo
