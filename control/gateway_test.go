package control

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"example.com/culvert/conntrack"
	"example.com/culvert/control/api"
	"example.com/culvert/control/notify"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/internal/await"
	"example.com/culvert/rules/config"
)

const masquerading = `
[gateway]
workers = 1

[[interface]]
name = "lan0"
area = "lan"
addresses = ["10.0.0.1/24"]

[[interface]]
name = "wan0"
area = "wan"
addresses = ["203.0.113.1/24"]

[[snat]]
out_area = "wan"
family = "ipv4"
action = "masquerade"
`

// bench is a gateway between point-to-point ports, without root.
type bench struct {
	*Gateway
	ports  map[string]*mem.Port
	socket string
}

// newBench makes a gateway that is not started, with a port for each name.
func newBench(t *testing.T, text string, opts Options, names ...string) *bench {
	t.Helper()
	b := &bench{ports: make(map[string]*mem.Port), socket: filepath.Join(t.TempDir(), "culvert.sock")}
	if opts.Ports == nil {
		opts.Ports = make(map[string]port.Port)
	}
	for _, name := range names {
		p := newPort(t, name)
		b.ports[name], opts.Ports[name] = p, p
	}
	opts.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	if opts.Socket == "" {
		opts.Socket = b.socket
	}
	g, err := New(parse(t, text), opts)
	if err != nil {
		t.Fatal(err)
	}
	b.Gateway = g
	t.Cleanup(func() {
		if err := g.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

// start runs a masquerading gateway with lan0 and wan0.
func start(t *testing.T) *bench {
	t.Helper()
	b := newBench(t, masquerading, Options{}, "lan0", "wan0")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

// send puts a UDP packet from inside to outside into lan0.
func (b *bench) send(t *testing.T, sport uint16) {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP,
		SrcIP: net.IP{10, 0, 0, 5}, DstIP: net.IP{203, 0, 113, 9}}
	udp := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: 53}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, ip, udp, gopacket.Payload("hello")); err != nil {
		t.Fatal(err)
	}
	if st := b.ports["lan0"].Inject(buf.Bytes(), packet.Offload{}); st != port.Sent {
		t.Fatalf("lan0 did not take the packet: %v", st)
	}
}

// received waits for a packet on wan0 and returns its source.
func (b *bench) received(t *testing.T) netip.Addr {
	t.Helper()
	var frames [][]byte
	eventually(t, "packet on wan0", func() bool {
		frames = b.ports["wan0"].Take()
		return len(frames) > 0
	})
	ip, ok := gopacket.NewPacket(frames[0], layers.LayerTypeIPv4, gopacket.Default).NetworkLayer().(*layers.IPv4)
	if !ok {
		t.Fatalf("wan0 sent no IPv4 packet: %x", frames[0])
	}
	src, _ := netip.AddrFromSlice(ip.SrcIP)
	return src
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	await.Until(t, what, ok)
}

func TestStartedGatewayTranslates(t *testing.T) {
	b := start(t)
	b.send(t, 40000)
	if got, want := b.received(t), netip.MustParseAddr("203.0.113.1"); got != want {
		t.Errorf("packet left from %v, want %v", got, want)
	}
	st := b.Status()
	if !st.Ready || st.Generation != 1 || st.Flows != 1 || st.Rules != 1 {
		t.Errorf("status %+v, want ready, generation 1, one flow, one rule", st)
	}
	if rules := b.Rules(); len(rules) != 1 || rules[0].Hits != 1 {
		t.Errorf("rules %+v, want one with one hit", rules)
	}
}

func TestReloadIsInForceWhenItReturns(t *testing.T) {
	b := start(t)
	plain := strings.Replace(masquerading, `action = "masquerade"`, "action = \"snat\"\nto = \"203.0.113.200\"", 1)
	if err := b.Reload(parse(t, plain)); err != nil {
		t.Fatal(err)
	}
	b.send(t, 40001)
	if got, want := b.received(t), netip.MustParseAddr("203.0.113.200"); got != want {
		t.Errorf("packet after the reload left from %v, want %v", got, want)
	}
	if got := b.Status().Generation; got != 2 {
		t.Errorf("generation %d, want 2", got)
	}
}

func TestRulesGoOnCountingAcrossAReload(t *testing.T) {
	b := start(t)
	for sport := range uint16(3) {
		b.send(t, 41000+sport)
		b.received(t)
		if err := b.Reload(parse(t, masquerading)); err != nil {
			t.Fatal(err)
		}
	}
	if rules := b.Rules(); len(rules) != 1 || rules[0].Hits != 3 {
		t.Errorf("rules after three flows and reloads: %+v, want one with three hits", rules)
	}
}

func TestRefusedReloadChangesNothing(t *testing.T) {
	for _, tt := range []struct{ claim, old, new, want string }{
		{"a setting that needs a restart", "workers = 1", "workers = 3", "gateway.workers changed, which needs a restart"},
		{"an interface that is not there", `name = "lan0"`, `name = "lan9"`, "interface lan9: there is no such interface"},
	} {
		b := start(t)
		err := b.Reload(parse(t, strings.Replace(masquerading, tt.old, tt.new, 1)))
		if !errors.Is(err, ErrRefused) || !strings.HasPrefix(err.Error(), "reload refused, generation 1 stays active: ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want a refusal that says %q", tt.claim, err, tt.want)
		}
		b.send(t, 40002)
		if got, want := b.received(t), netip.MustParseAddr("203.0.113.1"); got != want {
			t.Errorf("%s: packet after the refusal left from %v, want %v", tt.claim, got, want)
		}
	}
}

func TestReloadOfABrokenFileIsRefusedWithItsPosition(t *testing.T) {
	b := start(t)
	file := filepath.Join(t.TempDir(), "broken.toml")
	if err := os.WriteFile(file, []byte("[gateway]\nworkrs = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := b.ReloadFile(t.Context(), api.ReloadRequest{Config: file})
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "broken.toml:2:1: ") {
		t.Errorf("reload of a broken file: %v, want a refusal with its position", err)
	}
}

func TestLostAddressEndsItsFlows(t *testing.T) {
	b := start(t)
	b.send(t, 40003)
	b.received(t)
	moved := strings.Replace(masquerading, "203.0.113.1/24", "203.0.113.2/24", 1)
	if err := b.Reload(parse(t, moved)); err != nil {
		t.Fatal(err)
	}
	if got := b.Engine().Stats().Ended[conntrack.AddressLost]; got != 1 {
		t.Errorf("%d flows were ended, want 1", got)
	}
	b.send(t, 40003)
	if got, want := b.received(t), netip.MustParseAddr("203.0.113.2"); got != want {
		t.Errorf("the flow's next packet left from %v, want %v", got, want)
	}
}

func TestInterfacesComeAndGoAtRunTime(t *testing.T) {
	b := newBench(t, masquerading, Options{}, "lan0", "wan0", "veth7")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	spec := api.InterfaceSpec{Name: "veth7", Area: "guest", Addresses: []string{"10.7.0.1/24"}}
	for _, tt := range []struct {
		claim string
		call  func() error
		want  error
		count int
	}{
		{"an unknown area is refused", func() error {
			return b.AddInterface(t.Context(), api.InterfaceSpec{Name: "veth7", Area: "attic", Addresses: spec.Addresses})
		}, ErrRefused, 2},
		{"a malformed address is refused", func() error {
			return b.AddInterface(t.Context(), api.InterfaceSpec{Name: "veth7", Area: "guest", Addresses: []string{"10.7.0.1"}})
		}, ErrRefused, 2},
		{"an interface is added", func() error { return b.AddInterface(t.Context(), spec) }, nil, 3},
		{"it cannot be added twice", func() error { return b.AddInterface(t.Context(), spec) }, ErrExists, 3},
		{"a reload keeps it", func() error { return b.Reload(parse(t, masquerading)) }, nil, 3},
		{"it is removed", func() error { return b.RemoveInterface(t.Context(), "veth7") }, nil, 2},
		{"it cannot be removed twice", func() error { return b.RemoveInterface(t.Context(), "veth7") }, ErrNotFound, 2},
	} {
		if err := tt.call(); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.claim, err, tt.want)
		}
		if got := len(b.Status().Interfaces); got != tt.count {
			t.Errorf("%s: %d interfaces are served, want %d", tt.claim, got, tt.count)
		}
	}
	b.send(t, 40004)
	b.received(t)
}

func TestVLANAnswersARPWithItsTag(t *testing.T) {
	trunk, err := mem.New("lan0", mem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(parse(t, masquerading+`
[[interface]]
name = "lan0.7"
parent = "lan0"
vlan = 7
area = "guest"
addresses = ["10.7.0.1/24"]
`), Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Socket: NoSocket, Ports: map[string]port.Port{"lan0": trunk, "wan0": newPort(t, "wan0")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		claim  string
		tag    uint16
		target net.IP
	}{
		{"the parent answers without a tag", 0, net.IP{10, 0, 0, 1}},
		{"the sub-interface answers with its tag", 7, net.IP{10, 7, 0, 1}},
	} {
		trunk.TakeFrames() // announcements
		trunk.InjectFrame(arpRequest(t, tt.tag, tt.target))
		eventually(t, tt.claim, func() bool {
			for _, f := range trunk.TakeFrames() {
				arp, ok := gopacket.NewPacket(f.Data, layers.LayerTypeEthernet, gopacket.Default).Layer(layers.LayerTypeARP).(*layers.ARP)
				if ok && arp.Operation == layers.ARPReply && net.IP(arp.SourceProtAddress).Equal(tt.target) {
					if f.HasVLAN != (tt.tag != 0) || f.VLAN&0xfff != tt.tag {
						t.Errorf("%s: tag %v %d", tt.claim, f.HasVLAN, f.VLAN)
					}
					return true
				}
			}
			return false
		})
	}
}

func arpRequest(t *testing.T, tag uint16, target net.IP) mem.Frame {
	t.Helper()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	sender := net.IP{target[0], target[1], target[2], 9}
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{},
		&layers.Ethernet{SrcMAC: mac, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: layers.ARPRequest, SourceHwAddress: mac, SourceProtAddress: sender,
			DstHwAddress: make([]byte, 6), DstProtAddress: target})
	if err != nil {
		t.Fatal(err)
	}
	return mem.Frame{Data: buf.Bytes(), VLAN: tag, HasVLAN: tag != 0}
}

// newPort makes a point-to-point port in memory.
func newPort(t *testing.T, name string) *mem.Port {
	t.Helper()
	p, err := mem.New(name, mem.Options{Link: packet.LinkIP})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestGatewaysRunSideBySide(t *testing.T) {
	a, b := start(t), start(t)
	a.send(t, 40005)
	a.received(t)
	for _, tt := range []struct {
		socket string
		flows  int
	}{{a.socket, 1}, {b.socket, 0}} {
		client := api.NewClient(tt.socket)
		st, err := client.Status(t.Context())
		client.Close()
		if err != nil || st.Flows != tt.flows {
			t.Errorf("%s: %d flows, %v; want %d", tt.socket, st.Flows, err, tt.flows)
		}
	}
}

func TestSecondGatewayOnASocketIsRefused(t *testing.T) {
	first := start(t)
	second := newBench(t, masquerading, Options{Socket: first.socket}, "lan0", "wan0")
	if err := second.Start(t.Context()); !errors.Is(err, api.ErrSocketInUse) {
		t.Errorf("second gateway: %v, want %v", err, api.ErrSocketInUse)
	}
	client := api.NewClient(first.socket)
	defer client.Close()
	if _, err := client.Status(t.Context()); err != nil {
		t.Errorf("first gateway after the refusal: %v", err)
	}
}

func TestCloseEndsAnEventStreamAndRemovesTheSocket(t *testing.T) {
	b := start(t)
	client := api.NewClient(b.socket)
	defer client.Close()
	events, err := client.Events(context.Background(), api.Format{})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	if err := b.Close(t.Context()); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := os.Stat(b.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after close: %v, want it gone", err)
	}
	if err := b.Reload(parse(t, masquerading)); !errors.Is(err, ErrNotRunning) {
		t.Errorf("reload after close: %v, want %v", err, ErrNotRunning)
	}
}

func TestServiceManagerIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify.sock")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	told := func() string {
		buf := make([]byte, 512)
		if err := manager.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := manager.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(buf[:n]), "\n")
		return first
	}
	b := newBench(t, masquerading, Options{Notify: notify.To(path)}, "lan0", "wan0")
	for _, tt := range []struct {
		claim string
		call  func() error
		want  []string
	}{
		{"ready after start", func() error { return b.Start(t.Context()) }, []string{"READY=1"}},
		{"reloading, then ready", func() error { return b.Reload(parse(t, masquerading)) }, []string{"RELOADING=1", "READY=1"}},
		{"stopping", func() error { return b.Close(t.Context()) }, []string{"STOPPING=1"}},
	} {
		if err := tt.call(); err != nil {
			t.Errorf("%s: %v", tt.claim, err)
		}
		for _, want := range tt.want {
			if got := told(); got != want {
				t.Errorf("%s: manager was told %q, want %q", tt.claim, got, want)
			}
		}
	}
}

func TestOwnStackListensAndIsGoneAfterClose(t *testing.T) {
	b := start(t)
	l, err := b.Listen("tcp4", "10.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := b.Close(t.Context()); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := b.Listen("tcp4", "10.0.0.1:80"); !errors.Is(err, ErrNotRunning) {
		t.Errorf("listen after close: %v, want %v", err, ErrNotRunning)
	}
}

func TestGatewayWithoutInterfacesIsRefused(t *testing.T) {
	if _, err := New(config.Defaults(), Options{}); !errors.Is(err, ErrRefused) {
		t.Errorf("gateway without interfaces: %v, want %v", err, ErrRefused)
	}
}

func TestFlowsOfARemovedPoolEnd(t *testing.T) {
	pool := strings.Replace(masquerading, "action = \"masquerade\"", "action = \"snat\"\nto = \"203.0.113.8\"", 1)
	b := newBench(t, pool, Options{}, "lan0", "wan0")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.send(t, 40003)
	if got, want := b.received(t), netip.MustParseAddr("203.0.113.8"); got != want {
		t.Fatalf("left from %v, want %v", got, want)
	}
	if err := b.Reload(parse(t, strings.Replace(pool, "203.0.113.8", "203.0.113.9", 1))); err != nil {
		t.Fatal(err)
	}
	if s := b.Engine().Stats(); s.Ended[conntrack.AddressLost] != 1 || b.Table().Len() != 0 {
		t.Errorf("%d flows were ended, %d are left", s.Ended[conntrack.AddressLost], b.Table().Len())
	}
	b.send(t, 40003)
	if got, want := b.received(t), netip.MustParseAddr("203.0.113.9"); got != want {
		t.Errorf("the next packet left from %v, want %v", got, want)
	}
}
