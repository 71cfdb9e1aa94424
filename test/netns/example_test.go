//go:build netns

package netns_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"

	"example.com/culvert/test/netns"
)

// A client behind a masquerading gateway opens a connection to a server. The server
// greets and says whom it sees; the flow table knows who that was. With Kind
// Culvert and a Config in place of the Ruleset it is the same test.
func Example() {
	ctx := context.Background()
	lab, err := netns.Build(ctx, netns.Topology{
		Prefix: "cvexample",
		Links: []netns.Link{
			{Ends: []netns.End{
				{Host: "client", If: "eth0", Addrs: []string{"10.0.0.5/24"}, Via: []string{"10.0.0.1"}},
				{Host: "gateway", If: "lan0", Addrs: []string{"10.0.0.1/24"}},
			}},
			{Ends: []netns.End{
				{Host: "gateway", If: "wan0", Addrs: []string{"203.0.113.1/24"}},
				{Host: "server", If: "eth0", Addrs: []string{"203.0.113.9/24"}},
			}},
		},
		Gateway: &netns.GatewaySpec{
			Host: "gateway",
			Kind: netns.Kernel,
			Ruleset: `
				table ip nat {
					chain postrouting {
						type nat hook postrouting priority srcnat
						oifname "wan0" masquerade
					}
				}`,
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer lab.Close()

	server, err := lab.Host("server").Listen("tcp", "203.0.113.9:80")
	if err != nil {
		log.Panic(err)
	}
	defer server.Close()
	go func() {
		c, err := server.Accept()
		if err != nil {
			return
		}
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		fmt.Fprintf(c, "hello %s\n", host)
		c.Close()
	}()

	c, err := lab.Host("client").Dial(ctx, "tcp", "203.0.113.9:80")
	if err != nil {
		log.Panic(err)
	}
	defer c.Close()
	greeting, err := io.ReadAll(c)
	if err != nil {
		log.Panic(err)
	}
	fmt.Print(string(greeting))

	flow, err := lab.Gateway().WaitFlow(ctx, func(f netns.Flow) bool { return f.Orig.Dst.Port() == 80 })
	if err != nil {
		log.Panic(err)
	}
	fmt.Println(flow.Orig.Src.Addr(), "is", flow.Reply.Dst.Addr())
	// Output:
	// hello 203.0.113.1
	// 10.0.0.5 is 203.0.113.1
}
