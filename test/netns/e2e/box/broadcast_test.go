//go:build netns

package box

import (
	"errors"
	"fmt"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/culvert/test/netns"
)

const (
	broadcastConfig = boxConfig + withKernel + `
[[filter]]
in_area = "host"
proto = "udp"
dport = 137
action = "helper"
helper = "netbios-ns"

[[filter]]
in_area = "host"
proto = "udp"
dport = 161
action = "helper"
helper = "snmp"
`
	broadcastRuleset = `
table ip asks {
	ct helper names {
		type "netbios-ns" protocol udp
		l3proto ip
	}
	ct helper agents {
		type "snmp" protocol udp
		l3proto ip
	}
	chain output {
		type filter hook output priority filter
		udp dport 137 ct helper set "names"
		udp dport 161 ct helper set "agents"
	}
}
`
)

// asksTopology gives the box's questions helpers.
func asksTopology() netns.Topology {
	topology := boxTopology(broadcastConfig)
	spec := *topology.Gateway
	spec.Ruleset += broadcastRuleset
	topology.Gateway = &spec
	return topology
}

// TestBoxAsksItsLink has the box ask all hosts of the outside network for names and for
// agents: a host there answers from its own address, which nothing else lets in.
func TestBoxAsksItsLink(t *testing.T) {
	eachGateway(t, asksTopology(), func(t *testing.T, lab *netns.Lab) {
		gateway := lab.Host("gateway")
		for _, tt := range []struct {
			helper   string
			from, to int
			question string
		}{
			{"netbios-ns", 30137, 137, "\x12\x34\x01\x10\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x21\x00\x01"},
			{"netbios-ns", 137, 137, "\x12\x34\x01\x10\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x21\x00\x01"},
			{"snmp", 30161, 161, "\x30\x1a\x02\x01\x01\x04\x06public\xa0\x0d\x02\x01\x01\x02\x01\x00\x02\x01\x00\x30\x02\x30\x00"},
		} {
			t.Run(fmt.Sprintf("%s from port %d", tt.helper, tt.from), func(t *testing.T) {
				hears, err := lab.Host("server").ListenPacket("udp4", fmt.Sprintf(":%d", tt.to))
				must(t, err)
				defer hears.Close()
				asks, err := gateway.ListenPacket("udp4", fmt.Sprintf("203.0.113.1:%d", tt.from))
				must(t, err)
				defer asks.Close()
				_, err = asks.WriteTo([]byte(tt.question), &net.UDPAddr{IP: net.IPv4(203, 0, 113, 255), Port: tt.to})
				must(t, err)

				buf := make([]byte, 512)
				must(t, hears.SetDeadline(time.Now().Add(patience)))
				n, from, err := hears.ReadFrom(buf)
				must(t, err)
				if string(buf[:n]) != tt.question {
					t.Errorf("%v asked %q", from, buf[:n])
				}
				out, err := expectations(t, lab)
				must(t, err)
				want := fmt.Sprintf("proto=17 src=203.0.113.255 dst=203.0.113.1 sport=%d dport=%d mask-src=255.255.255.0 mask-dst=255.255.255.255 sport=65535 dport=65535 "+
					"master-src=203.0.113.1 master-dst=203.0.113.255 sport=%d dport=%d PERMANENT class=0 helper=%s", tt.to, tt.from, tt.from, tt.to, tt.helper)
				if !strings.Contains(out, want) {
					t.Errorf("expected are\n%s, want\n%s", out, want)
				}
				answer, err := lab.Host("server").ListenPacket("udp4", "203.0.113.9:0")
				must(t, err)
				defer answer.Close()
				_, err = answer.WriteTo([]byte("of another port"), from)
				must(t, err)
				_, err = hears.WriteTo([]byte("here"), from)
				must(t, err)
				must(t, asks.SetDeadline(time.Now().Add(patience)))
				n, from, err = asks.ReadFrom(buf)
				must(t, err)
				if string(buf[:n]) != "here" || from.String() != fmt.Sprintf("203.0.113.9:%d", tt.to) {
					t.Errorf("%v answered %q", from, buf[:n])
				}
			})
		}
	})
}

// TestBoxFindsAHostByItsNetBIOSName has nmblookup of the box ask for a host whose nmbd
// knows its name.
func TestBoxFindsAHostByItsNetBIOSName(t *testing.T) {
	eachGateway(t, asksTopology(), func(t *testing.T, lab *netns.Lab) {
		dir := t.TempDir()
		conf := filepath.Join(dir, "smb.conf")
		must(t, os.WriteFile(conf, fmt.Appendf(nil, `[global]
netbios name = somehost
interfaces = 203.0.113.9/24
bind interfaces only = yes
local master = no
lock directory = %[1]s
state directory = %[1]s
cache directory = %[1]s
pid directory = %[1]s
private dir = %[1]s
`, dir), 0o600))
		nmbd, err := netns.Tool("nmbd")
		must(t, err)
		daemon, err := lab.Host("server").Start(nmbd, "-F", "--no-process-group", "--debug-stdout", "-s", conf)
		must(t, err)
		found := ""
		eventually(t, "nmbd answers for its name", func() bool {
			out, err := lab.Host("gateway").Exec(t.Context(), "nmblookup", "-s", conf, "-B", "203.0.113.255", "somehost")
			if exit := (*osexec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				t.Fatalf("%v\n%s", err, daemon.Output())
			}
			found = out
			return err == nil
		})
		if !strings.Contains(found, "203.0.113.9 somehost<00>") {
			t.Errorf("nmblookup says %q", found)
		}
	})
}

// expectations lists the flows that the gateway expects.
func expectations(t *testing.T, lab *netns.Lab) (string, error) {
	t.Helper()
	if gw := lab.Gateway(); gw.Kind() == netns.Culvert {
		return gw.Ctl(t.Context(), "conntrack", "-L", "expect")
	}
	return lab.Gateway().Exec(t.Context(), "conntrack", "-L", "expect")
}
