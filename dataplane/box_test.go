package dataplane

import (
	"testing"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/mem"
)

// boxLab has a path to the kernel of the gateway's namespace on lan and wan.
func boxLab(t *testing.T) *lab {
	return newLab(t, labConfig{more: func(st *State, make portMaker) {
		st.Ports[0].Box = make("lan-box", mem.Options{GSO: port.WithGSO})
		st.Ports[1].Box = make("wan-box", mem.Options{GSO: port.WithGSO})
	}})
}

// boxFrame is what the kernel sends on a port: from the port's own MAC address.
func (l *lab) boxFrame(name string, dst [6]byte, ip []byte) mem.Frame {
	return mem.Frame{Data: ethernet(dst, l.ports[name].Info().MAC, ip)}
}

var everybody = [6]byte{255, 255, 255, 255, 255, 255}

func TestKernelServesWhatNoServiceTakes(t *testing.T) {
	l := boxLab(t)
	l.host.services[443] = true
	l.send("lan", tcp("10.0.0.5:1", "10.0.0.1:22"))
	f := l.take("lan-box")
	if got := [6]byte(f.Data); got != l.ports["lan"].Info().MAC {
		t.Errorf("sent to %x, want the interface's own address: the kernel drops what is for others", got)
	}
	if got, want := describe(f, l.ports["lan"].Info().Link), "tcp 10.0.0.5:1 > 10.0.0.1:22 S seq 0 ack 0 ttl 64 len 0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	l.injectAsKernel("lan-box", l.boxFrame("lan", macOf(addr("10.0.0.5")), tcp("10.0.0.1:22", "10.0.0.5:1", flags(0x12), seq(5, 1))))
	l.want("lan", "tcp 10.0.0.1:22 > 10.0.0.5:1 SA seq 5 ack 1 ttl 64 len 0")
	l.send("lan", tcp("10.0.0.5:1", "10.0.0.1:443"))
	l.want("host", "tcp 10.0.0.5:1 > 10.0.0.1:443 S seq 0 ack 0 ttl 64 len 0")
	l.send("lan", ping("10.0.0.5", "10.0.0.1", 1))
	l.want("host", "icmp 10.0.0.5 > 10.0.0.1 echo id 1 ttl 64")
	l.send("wan", tcp("198.51.100.7:1", "203.0.113.1:22"))
	l.wantDrops(LocalDenied)
	if s := l.e.Stats(); s.Delivered != 3 {
		t.Errorf("delivered %d, want 3", s.Delivered)
	}
}

func TestBoxGoesOutTrackedAndTranslated(t *testing.T) {
	l := boxLab(t)
	// From an address of lan, so that masquerading shows.
	l.injectAsKernel("wan-box", l.boxFrame("wan", macOf(addr("203.0.113.254")), udp("10.0.0.1:1000", "198.51.100.7:53")))
	l.want("wan", "udp 203.0.113.1:1000 > 198.51.100.7:53 ttl 64 len 0")
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:1000"))
	l.want("wan-box", "udp 198.51.100.7:53 > 10.0.0.1:1000 ttl 64 len 0")
	l.wantFlows("udp 10.0.0.1:1000 > 198.51.100.7:53 / udp 198.51.100.7:53 > 203.0.113.1:1000")
	l.wantDrops()
}

func TestBroadcastsOfAndForTheBox(t *testing.T) {
	l := boxLab(t)
	lan := func(ip []byte) mem.Frame { return mem.Frame{Data: ethernet(everybody, macOf(addr("10.0.0.5")), ip)} }
	l.inject("lan", lan(udp("0.0.0.0:68", "255.255.255.255:67")))
	l.step()
	l.want("lan-box", "udp 0.0.0.0:68 > 255.255.255.255:67 ttl 64 len 0")
	l.injectAsKernel("lan-box", l.boxFrame("lan", everybody, udp("10.0.0.1:67", "255.255.255.255:68")))
	l.want("lan", "udp 10.0.0.1:67 > 255.255.255.255:68 ttl 64 len 0")
	// Outside, only answers to DHCP clients.
	l.inject("wan", lan(udp("203.0.113.7:5353", "255.255.255.255:5353")))
	l.step()
	l.wantDrops(Multicast)
	l.inject("wan", lan(udp("203.0.113.7:67", "255.255.255.255:68")))
	l.step()
	l.want("wan-box", "udp 203.0.113.7:67 > 255.255.255.255:68 ttl 64 len 0")
	// A kernel whose path is shut loses broadcasts, once in the accounts.
	l.ports["lan-box"].SetDown()
	l.inject("lan", lan(udp("0.0.0.0:68", "255.255.255.255:67")))
	l.step()
	l.wantDrops(EgressDown)
}

func TestKernelHearsAnswersToItsQuestions(t *testing.T) {
	l := boxLab(t)
	arp := func(op byte) mem.Frame {
		f := make([]byte, 42)
		copy(f, l.frame("lan", udp("10.0.0.5:1", "10.0.0.1:1"))[:12])
		copy(f[12:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, op})
		return mem.Frame{Data: f}
	}
	const request, reply = 1, 2
	l.inject("lan", arp(request))
	l.step()
	if n := len(l.ports["lan-box"].Take()); n != 0 {
		t.Error("the kernel hears questions, and would answer them, too")
	}
	l.inject("lan", arp(reply))
	l.step()
	if n := len(l.ports["lan-box"].Take()); n != 1 {
		t.Errorf("the kernel got %d frames, want the answer", n)
	}
	if n := len(l.host.links); n != 2 {
		t.Errorf("the own stack got %d frames, want both", n)
	}
	// What the kernel asks goes out as it is.
	l.injectAsKernel("lan-box", arp(request))
	if n := len(l.ports["lan"].Take()); n != 1 {
		t.Errorf("%d questions of the kernel on the link, want 1", n)
	}
	// A copy that finds no room is not a lost packet.
	l.ports["lan-box"].SetDown()
	l.inject("lan", arp(reply))
	l.step()
	l.wantDrops()
	if s := l.e.Stats(); s.Delivered != 3 || s.Forwarded != 1 || s.Originated != 0 {
		t.Errorf("delivered %d, forwarded %d, originated %d; want 3, 1, 0", s.Delivered, s.Forwarded, s.Originated)
	}
}

func TestOffersReachTheBoxAndNobodyBehindIt(t *testing.T) {
	l := boxLab(t)
	l.send("wan", udp("203.0.113.7:67", "203.0.113.88:68")) // an address the box does not have yet
	l.want("wan-box", "udp 203.0.113.7:67 > 203.0.113.88:68 ttl 64 len 0")
	l.send("wan", udp("203.0.113.7:67", "10.0.0.5:68"))
	l.wantDrops(PolicyDenied)
	l.want("wan-box")
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:68"))
	l.want("wan", "udp 203.0.113.1:1 > 198.51.100.7:68 ttl 63 len 0")
	l.want("lan-box")
}

// TestConnectionsStayWhereTheyBegan has services come and go while others talk.
func TestConnectionsStayWhereTheyBegan(t *testing.T) {
	l := boxLab(t)
	const client, gateway = "10.0.0.5", "10.0.0.1:443"
	open := func(from, at string) {
		t.Helper()
		l.send("lan", tcp(client+from, gateway))
		l.take(at)
		answer := tcp(gateway, client+from, flags(packet.SYN|packet.ACK), seq(0, 1))
		if at == "host" {
			l.injectHost(answer)
		} else {
			l.injectAsKernel("lan-box", l.boxFrame("lan", macOf(addr(client)), answer))
		}
		l.take("lan")
	}
	more := func(from, at string) {
		t.Helper()
		l.send("lan", tcp(client+from, gateway, flags(packet.ACK), seq(1, 1)))
		l.want(at, "tcp "+client+from+" > "+gateway+" A seq 1 ack 1 ttl 64 len 0")
	}
	l.host.services[443] = true
	open(":1", "host")
	l.host.services[443] = false
	more(":1", "host")
	open(":2", "lan-box")
	l.host.services[443] = true
	more(":1", "host")
	more(":2", "lan-box")
	open(":3", "host")
	// Errors follow the connection that they are about.
	quoted := tcp(gateway, client+":2", flags(packet.ACK), seq(1, 1))
	l.send("lan", icmpErrorAbout(client, "10.0.0.1", 3, 1, 0, quoted))
	l.want("lan-box", "icmp 10.0.0.5 > 10.0.0.1 3/1 ["+describeIP(quoted, false)+"]")
	// A connection that begins anew begins where the service is now.
	l.send("lan", tcp(client+":2", gateway, flags(packet.RST), seq(1, 0)))
	l.take("lan-box")
	open(":2", "host")
	l.wantDrops()
}

func TestAnswersReachWhoAskedInTheBox(t *testing.T) {
	l := boxLab(t)
	l.host.services[5000] = true
	ask := func(port string) { l.send("wan", udp("198.51.100.7:53", "203.0.113.1"+port)) }
	l.injectAsKernel("wan-box", l.boxFrame("wan", macOf(addr("203.0.113.254")), udp("203.0.113.1:5000", "198.51.100.7:53")))
	l.take("wan")
	ask(":5000")
	l.want("wan-box", "udp 198.51.100.7:53 > 203.0.113.1:5000 ttl 64 len 0")
	// Datagrams to a service that went away are for the next one.
	datagram := func(at string) {
		t.Helper()
		l.send("lan", udp("10.0.0.5:7", "10.0.0.1:5000"))
		l.want(at, "udp 10.0.0.5:7 > 10.0.0.1:5000 ttl 64 len 0")
	}
	datagram("host")
	l.host.services[5000] = false
	datagram("lan-box")
	l.host.services[5000] = true
	datagram("host")
}

func TestAnswersToOwnPingsGoWhereTheyWereAsked(t *testing.T) {
	l := boxLab(t)
	l.host.services[9] = true // the identifier of a ping of the own stack
	l.injectHost(ping("203.0.113.1", "198.51.100.7", 9))
	l.take("wan")
	l.injectAsKernel("wan-box", l.boxFrame("wan", macOf(addr("203.0.113.254")), ping("203.0.113.1", "198.51.100.7", 10)))
	l.take("wan")
	l.send("wan", pong("198.51.100.7", "203.0.113.1", 9))
	l.want("host", "icmp 198.51.100.7 > 203.0.113.1 reply id 9 ttl 64")
	l.send("wan", pong("198.51.100.7", "203.0.113.1", 10))
	l.want("wan-box", "icmp 198.51.100.7 > 203.0.113.1 reply id 10 ttl 64")
	l.wantDrops()
}
