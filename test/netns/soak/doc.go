// Package soak runs mixed traffic through a gateway for as long as it is told to,
// while its configuration and its outside address change, and looks all the time for
// what must not be. It has tests only, behind the build tag netns, and they need root:
//
//	make soak MINUTES=30
//
// and less than a minute of it with `make netns`.
//
// # Theory of operation
//
// Hosts behind the gateway are users of a server outside: HTTP, DNS, ping, FTP, SIP,
// bulk transfers on connections that last, and connections and datagrams that come and
// go. Each use knows what it must get, to the byte, and each service on the server that
// nobody but the gateway's outside addresses may show up.
//
// Meanwhile the configuration is reloaded, now and then with a broken file, which must
// be refused, and the outside IPv4 address is replaced. That ends flows: a use over IPv4
// that the change fell into may fail, and is counted as interrupted. Any other that
// fails, fails the test; so does every use over IPv6, which no change touches.
//
// All the time:
//
//   - `culvert debug check` finds no defect in the table of flows;
//   - nothing is dropped for the reason internal;
//   - the stream of all events has each number, none missed, and every flow that ends
//     has begun; in the end each flow listed has begun, and any other ends within moments;
//   - memory that is in use after a collection, and what the process has of the
//     machine's, do not grow from the second quarter of the run to the last;
//   - when the traffic ends, goroutines and file descriptors are as many as before it.
//
// The report at the end has the numbers.
package soak
