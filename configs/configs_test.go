package configs

import (
	"path/filepath"
	"strings"
	"testing"

	"example.com/culvert/rules"
	"example.com/culvert/rules/config"
)

// normal is the normal form of each sample.
var normal = map[string]string{
	"home-router.toml": `
1 filter in-area guest out-area host proto udp dport 53,67 accept
2 filter in-area guest,lan out-area wan proto tcp dport 21 helper ftp
1 snat out-area wan family ipv4 masquerade
`,
	"container-egress.toml": `
1 filter in-area containers dst 169.254.169.254 reject
2 filter in-area containers out-area wan proto tcp dport 25 reject
1 snat out-area wan dst 10.0.0.0/8,172.16.0.0/12 none
2 snat out-area wan family ipv4 masquerade ports 32768-65535
`,
	"lab.toml": `
1 dnat in-area wan family ipv4 proto tcp dst gateway dport 8080 dnat to 10.0.0.2:80
2 dnat in-area wan family ipv6 proto tcp dst gateway dport 8080 dnat to [fd00:a::2]:80
3 dnat in-area lan proto tcp,udp dport 7 redirect ports 7007
1 snat out-area wan masquerade
`,
	"two-uplinks.toml": `
1 dnat in-area wan proto tcp dst gateway dport 443 dnat to 192.168.1.10:8443
1 snat out-area wan masquerade
`,
	"port-forwarding.toml": `
1 dnat in-area wan proto tcp dst gateway dport 443 dnat to 192.168.1.10:8443
2 dnat in-area wan proto udp dst 203.0.113.2 dport 27000-27015 dnat to 192.168.1.20 ports 28000-28015 shift
3 dnat in-area wan proto tcp,udp dst 203.0.113.2 dport 53 dnat to 192.168.1.30,192.168.1.31 persistent
4 dnat in-area wan proto tcp dst gateway dport 2222 dnat to 192.168.1.10:22
5 dnat in-area lan proto udp dport 123 redirect
1 filter in-area wan proto tcp src !198.51.100.0/24 dst 192.168.1.10 dport 22 drop
2 filter in-area wan proto tcp dst 2001:db8:0:2::10 dport 443 accept
1 snat out-area wan family ipv4 masquerade
`,
}

func TestSamplesLoadAndCompile(t *testing.T) {
	paths, err := filepath.Glob("*.toml")
	if err != nil || len(paths) != len(normal) {
		t.Fatalf("%d samples, %d expected, %v", len(paths), len(normal), err)
	}
	for _, path := range paths {
		c, err := config.Load(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if got, want := c.Normal(), strings.TrimPrefix(normal[path], "\n"); got != want {
			t.Errorf("%s has the rules\n%swant\n%s", path, got, want)
		}
		var b rules.Binding
		for i, itf := range c.Interfaces {
			b.Ports = append(b.Ports, rules.BoundPort{Index: uint16(i + 1), Name: strings.Replace(itf.Name, "*", "1", 1), Area: itf.Area})
		}
		if _, err := rules.Compile(&c.Rules, &b, 1); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}
