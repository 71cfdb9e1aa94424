// Package e2e holds the end-to-end tests of the gateway: whole networks of
// namespaces (package netns), real daemons and clients, and `culvert run` in the
// middle. They need root and the build tag netns; `make netns` runs them.
package e2e
