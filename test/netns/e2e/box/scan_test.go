//go:build netns

package box

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"example.com/culvert/test/netns"
)

// TestScanFromOutsideFindsNothing scans a gateway that has no rule for what comes
// in, while daemons listen on the box and on a host behind it. Every port of every
// kind must be as if nobody were there; a forwarded one, and an inside that is
// scanned from the inside, show that the scan would find it.
func TestScanFromOutsideFindsNothing(t *testing.T) {
	const forwarded = `
		[[dnat]]
		in_area = "wan"
		proto = "tcp"
		dport = 8443
		action = "dnat"
		to = "10.0.0.5:80"
	`
	topology := boxTopology(boxConfig + withKernel)
	server := &topology.Links[1].Ends[1]
	server.Routes = []netns.Route{{To: "fd00:a::/64", Via: "2001:db8::1"}, {To: "10.0.0.0/24", Via: "203.0.113.1"}}
	lab := netns.ForTest(t, topology)
	client, box, attacker := lab.Host("client"), lab.Host("gateway"), lab.Host("server")
	serveHTTP(t, client, "[::]:80")
	echo(t, box, "[::]:2222")
	if found := scan(t, client, "-sS", "-p2222", "10.0.0.1"); found != "2222/open/tcp" {
		t.Fatalf("from inside: %q, want the daemon of the box found", found)
	}
	ports := "-p1-1500,2222,5060,5351,8080-8090" // what daemons and gateways listen on
	if os.Getenv("CULVERT_LONG") != "" {
		ports = "-p-"
	}
	for _, targets := range [][]string{{"203.0.113.1", "10.0.0.1", "10.0.0.5"}, {"-6", "2001:db8::1", "fd00:a::1", "fd00:a::5"}} {
		for _, kind := range [][]string{{"-sS", "-sU", ports}, {"-sA", ports}, {"-sF", ports}, {"-sO"}} {
			if found := scan(t, attacker, append(kind, targets...)...); found != "" {
				t.Errorf("nmap %v %v: %s answers, want silence", kind, targets, found)
			}
		}
	}
	reloaded(t, lab, boxConfig+withKernel+forwarded)
	if found := scan(t, attacker, "-sS", "-p8000-8999", "203.0.113.1"); found != "8443/open/tcp" {
		t.Errorf("with a forwarded port: %q, want that one found and no other", found)
	}
}

var port = regexp.MustCompile(`(\d+)/(open|closed|unfiltered)/(\w+)`)

// scan returns the ports or protocols that answer nmap(1) in any way, as it writes
// them. Every target has to be scanned.
func scan(t *testing.T, h *netns.Host, args ...string) string {
	t.Helper()
	args = append([]string{"nmap", "-n", "-Pn", "--min-rate", "30000", "--max-retries", "0", "-oG", "-"}, args...)
	out, err := h.Exec(t.Context(), args...)
	if err != nil || !strings.Contains(out, "hosts up)") && !strings.Contains(out, "1 host up") {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return strings.Join(port.FindAllString(out, -1), " ")
}
