package demo

import (
	"strings"
	"testing"

	"example.com/culvert/rules/config"
	"example.com/culvert/test/netns"
)

func TestConfigurationsAreValid(t *testing.T) {
	for _, driver := range []string{driverAFPacket, driverTUN} {
		t.Run(driver, func(t *testing.T) {
			text := topology(driver, netns.Culvert, "culvert").Gateway.Config
			text = strings.ReplaceAll(text, "${ns:"+client+"}", "some-namespace")
			if _, err := config.Parse("demo.toml", []byte(text)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    options
		want string // part of the error, "" for none
	}{
		{"af_packet with culvert", options{driver: "af_packet", gateway: "culvert"}, ""},
		{"tun with culvert", options{driver: "tun", gateway: "culvert"}, ""},
		{"the kernel with its own drivers", options{driver: "af_packet", gateway: "kernel"}, ""},
		{"an unknown driver is named", options{driver: "dpdk", gateway: "culvert"}, "--driver dpdk: use af_packet or tun"},
		{"an unknown gateway is named", options{driver: "tun", gateway: "pf"}, "--gateway pf: use culvert or kernel"},
		{"the kernel has no TUN", options{driver: "tun", gateway: "kernel"}, "leave the flag out"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := topologyFor(tt.o)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("topologyFor: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("topologyFor: %v, want %q", err, tt.want)
			}
		})
	}
}
