// Package selftest finds out how a configuration behaves: it builds the gateway of
// the configuration in memory (dataplane/vnet: the real engine, tables, rules and
// areas, interfaces that exist in memory, virtual time) and lets nat/discover loose
// on it.
//
// What the discovery reports comes from packets alone. This package knows the
// configuration, but only to build the gateway and to choose the addresses of the
// hosts: inside from the prefix of the inside interface, outside from the
// documentation prefixes (RFC 5737) when a default route leads there, else from the
// prefix of the outside interface.
//
// # What is not as in the gateway
//
// Every interface is plain Ethernet here: TUN devices, VLANs and namespaces are
// not. A pattern of names is one interface. An interface whose addresses the kernel
// gives has those that the caller knows (a running gateway tells them), else invented
// ones, which the result names. The path to the kernel of the box ([host]) is
// missing. The table is smaller.
package selftest
