package main

import (
	"strings"
	"testing"
)

// sharedPorts gives each client ports of its own.
const sharedPorts = `
interface = [ { name = "eth1", area = "lan" }, { name = "eth0", area = "wan" } ]

[[snat]]
name = "subscribers"
out_area = "wan"
src = "100.64.0.0/22"
action = "snat"
to = "203.0.113.128/28"
deterministic = true

[[snat]]
out_area = "wan"
family = "ipv4"
action = "masquerade"
`

func TestDebugOwner(t *testing.T) {
	file := textFile(t, sharedPorts)
	for _, tt := range []struct {
		claim, arg string
		want       string // on stdout
		err        string // part of stderr
		code       int
	}{
		{"the first ports are the first client's", "203.0.113.128:1024", "100.64.0.0 has 203.0.113.128 ports 1024-2031 (subscribers)\n", "", exitDone},
		{"so are the ports of a client", "100.64.0.0", "100.64.0.0 has 203.0.113.128 ports 1024-2031 (subscribers)\n", "", exitDone},
		{"the last ports are the last client's", "203.0.113.143:65535", "100.64.3.255 has 203.0.113.143 ports 64528-65535 (subscribers)\n", "", exitDone},
		{"low ports are nobody's", "203.0.113.128:443", "", "no deterministic rule has it", exitFailed},
		{"nor are other addresses", "203.0.113.1:4000", "", "no deterministic rule has it", exitFailed},
		{"a name is no address", "example.org", "", "neither an external address with a port", exitMisused},
	} {
		stdout, stderr, code := culvert(t, "debug", "owner", "-c", file, tt.arg)
		if stdout != tt.want || code != tt.code || !strings.Contains(stderr, tt.err) {
			t.Errorf("%s: status %d, stdout %q, stderr %q", tt.claim, code, stdout, stderr)
		}
	}
}
