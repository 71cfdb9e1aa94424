package control

import "example.com/culvert/dataplane/port/own"

// ReleaseHeld gives the interfaces that gateways with on_exit = "hold" left closed
// back to the kernel, except those of running gateways, and returns how many.
func ReleaseHeld() (int, error) { return own.ReleaseHeld(own.DefaultPinDir) }
