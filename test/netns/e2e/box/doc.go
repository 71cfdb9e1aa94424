// Package box holds the end-to-end tests of what the gateway does to the machine
// that it runs on: interfaces are kept from the kernel, given back or held closed
// when the gateway ends, and followed as they change; with [host] the kernel and
// its daemons take part. Clients, servers and daemons are real; they need root
// and the build tag netns.
package box
