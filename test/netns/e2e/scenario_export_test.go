//go:build netns

package e2e

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"golang.org/x/sys/unix"

	"example.com/culvert/control/ipfix"
	"example.com/culvert/test/netns"
)

// collectorPort is IANA's for IPFIX: what tshark takes for it.
const collectorPort = 4739

// exported is the house that tells collectors, a file and a syslog server.
func exported(dir string) setup {
	return setup{
		snat: `
[[snat]]
name = "bounded"
src = "` + ipv4.second.String() + `"
out_area = "wan"
action = "masquerade"
mapping = "endpoint-independent"
ports_per_client = 2
block_size = 32
`,
		config: fmt.Sprintf(`
[[ipfix]]
collector = "%v"
via = "gateway"

[[ipfix]]
collector = "%v"
via = "gateway"
transport = "tcp"
domain = 7

[[flowlog]]
file = "%s/flows.log"
format = "json"

[[flowlog]]
syslog = "unix:%s/log"
flows = "translated"
`, at(ipv4.server, collectorPort), at(ipv4.server, collectorPort), dir, dir),
	}
}

// TestCollectorsAndLogsSeeTheSameTranslations has nfcapd, tshark and rsyslogd read what
// the gateway tells of one TCP connection and of a client with too many ports.
func TestCollectorsAndLogsSeeTheSameTranslations(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	onlyCulvert(t, setup{}, func(t *testing.T, h *house) {
		f := &ipv4
		stream := collectTCP(t, h.server, at(f.server, collectorPort))
		flows := startNfcapd(t, h.server, at(f.server, collectorPort))
		startRsyslogd(t, h.gw.Host, dir)
		told := exported(dir)
		must(t, h.gw.Reload(t.Context(), told.text(netns.Culvert))) // once everybody listens

		serveTCP(t, h.server, at(f.server, 8080), greet)
		c := talk(t, h.first, at(f.first, 40001), at(f.server, 8080))
		for port := range uint16(3) {
			u, err := h.second.DialFrom(t.Context(), net.UDPAddrFromAddrPort(at(f.second, 41001+port)), "udp", at(f.server, 5353).String())
			must(t, err)
			defer u.Close()
			_, err = u.Write([]byte("x"))
			must(t, err)
		}
		session := fmt.Sprintf("proto=tcp src=%v sport=40001 dst=%v dport=8080 nat_src=%v nat_sport=%d nat_dst=%v nat_dport=8080 ",
			f.first, f.server, c.seen.Addr(), c.seen.Port(), f.server)
		until(t, "the session in syslog", func() bool {
			return strings.Contains(readFile(dir+"/messages"), " new - time=") && strings.Contains(readFile(dir+"/messages"), session)
		})
		until(t, "the refusal in the file", func() bool {
			return strings.Contains(readFile(dir+"/flows.log"), `"event":"refused","reason":"port-quota"`)
		})

		var got []string
		until(t, "all events over TCP", func() bool {
			got = tsharkRecords(t, h.server, stream.pcap(t))
			return len(got) >= 8
		})
		for name, want := range map[string][]string{
			"session": {"Nat Event: NAT44 session create (4)"},
		} {
			if !slices.ContainsFunc(got, func(record string) bool {
				return !slices.ContainsFunc(want, func(field string) bool { return !strings.Contains(record, field+"; ") })
			}) {
				t.Errorf("tshark shows no %s with %q in\n%s", name, want, strings.Join(got, "\n"))
			}
		}
		table, err := h.gw.Flows(t.Context(), "-n") // those whose source is translated
		must(t, err)
		text := compact(flows())
		for _, x := range table {
			proto := map[string]int{"tcp": 6, "udp": 17}[x.Proto]
			line := fmt.Sprintf("%d,%v,%d,%v,%d,%v,%d,%v,%d\n", proto, x.Orig.Src.Addr(), x.Orig.Src.Port(), x.Orig.Dst.Addr(), x.Orig.Dst.Port(),
				x.Reply.Dst.Addr(), x.Reply.Dst.Port(), x.Reply.Src.Addr(), x.Reply.Src.Port())
			if !strings.Contains(text, line) {
				t.Errorf("nfdump does not show %sin\n%s", line, text)
			}
		}
		if len(table) != 3 {
			t.Errorf("%d flows are translated, want 3", len(table))
		}
		out, err := h.gw.Ctl(t.Context(), "log")
		must(t, err)
		if strings.Count(out, "working") != 4 {
			t.Errorf("culvert log says\n%s", out)
		}
	})
}

func readFile(path string) string {
	b, _ := os.ReadFile(path) // none: not there yet
	return string(b)
}

// compact takes the blanks away that columns have.
func compact(text string) string { return strings.ReplaceAll(text, " ", "") }

// startNfcapd starts a collector for UDP. What it returns ends it and has nfdump print
// its flows.
func startNfcapd(t *testing.T, h *netns.Host, on netip.AddrPort) (flows func() string) {
	t.Helper()
	dir := t.TempDir()
	p, err := h.Start("nfcapd", "-b", on.Addr().String(), "-p", fmt.Sprint(on.Port()), "-w", dir, "-t", "3600")
	must(t, err)
	until(t, "nfcapd listens", func() bool {
		out, err := h.Exec(t.Context(), "ss", "-uln")
		return err == nil && strings.Contains(out, on.String())
	})
	return func() string {
		t.Helper()
		must(t, p.Signal(unix.SIGTERM))
		until(t, "nfcapd's file", func() bool {
			all, _ := filepath.Glob(dir + "/nfcapd.2*")
			return len(all) > 0
		})
		out, err := h.Exec(t.Context(), "nfdump", "-q", "-R", dir, "-N", "-o", "fmt:%pr,%sa,%sp,%da,%dp,%xsa,%xsp,%xda,%xdp")
		must(t, err)
		return out
	}
}

// startRsyslogd starts a server on dir/log that writes to dir/messages.
func startRsyslogd(t *testing.T, h *netns.Host, dir string) {
	t.Helper()
	conf := fmt.Sprintf(`module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="%s/log")
template(name="whole" type="string" string="%%APP-NAME%% %%syslogfacility-text%%.%%syslogseverity-text%% %%MSGID%% -%%msg%%\n")
*.* action(type="omfile" file="%s/messages" template="whole")
`, dir, dir)
	must(t, os.WriteFile(dir+"/rsyslog.conf", []byte(conf), 0o600))
	_, err := h.Start("rsyslogd", "-n", "-f", dir+"/rsyslog.conf", "-i", dir+"/pid")
	must(t, err)
	until(t, "rsyslogd listens", func() bool { _, err := os.Stat(dir + "/log"); return err == nil })
}

// tcpCollector keeps what came over one connection.
type tcpCollector struct {
	mu       sync.Mutex // guards the rest
	messages [][]byte
}

func collectTCP(t *testing.T, h *netns.Host, on netip.AddrPort) *tcpCollector {
	t.Helper()
	c := &tcpCollector{}
	serveTCP(t, h, on, func(conn net.Conn) {
		for {
			b := make([]byte, 16, 65536)
			if _, err := io.ReadFull(conn, b); err != nil {
				return
			}
			b = b[:binary.BigEndian.Uint16(b[2:])]
			if _, err := io.ReadFull(conn, b[16:]); err != nil {
				return
			}
			c.mu.Lock()
			c.messages = append(c.messages, b)
			c.mu.Unlock()
		}
	})
	return c
}

// pcap writes the messages as one TCP connection.
func (c *tcpCollector) pcap(t *testing.T) string {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	return writePcap(t, layers.IPProtocolTCP, c.messages)
}

// writePcap writes packets with these payloads to a collector.
func writePcap(t *testing.T, proto layers.IPProtocol, payloads [][]byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "messages.pcap")
	file, err := os.Create(path)
	must(t, err)
	defer file.Close()
	w := pcapgo.NewWriter(file)
	must(t, w.WriteFileHeader(65536, layers.LinkTypeRaw))
	seq := uint32(1)
	for _, payload := range payloads {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: ipv4.outside.AsSlice(), DstIP: ipv4.server.AsSlice()}
		var transport gopacket.SerializableLayer
		if proto == layers.IPProtocolTCP {
			tcp := &layers.TCP{SrcPort: 50000, DstPort: collectorPort, Seq: seq, Ack: 1, ACK: true, PSH: true, Window: 65535}
			must(t, tcp.SetNetworkLayerForChecksum(ip))
			seq += uint32(len(payload))
			transport = tcp
		} else {
			udp := &layers.UDP{SrcPort: 50000, DstPort: collectorPort}
			must(t, udp.SetNetworkLayerForChecksum(ip))
			transport = udp
		}
		buf := gopacket.NewSerializeBuffer()
		must(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, transport, gopacket.Payload(payload)))
		must(t, w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Now(), CaptureLength: len(buf.Bytes()), Length: len(buf.Bytes())}, buf.Bytes()))
	}
	return path
}

// tsharkRecords has tshark read messages and returns its lines about each record.
func tsharkRecords(t *testing.T, h *netns.Host, pcap string) []string {
	t.Helper()
	out, err := h.Exec(t.Context(), "tshark", "-r", pcap, "-V", "-O", "cflow")
	must(t, err)
	if strings.Contains(out, "Malformed") || strings.Contains(out, "No template found") {
		t.Errorf("tshark complains:\n%s", out)
	}
	var all []string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "Flow ") && len(strings.Fields(line)) == 2:
			all = append(all, "")
		case line == "" || strings.HasPrefix(line, "Set ") || strings.HasPrefix(line, "Frame "):
		case len(all) > 0:
			all[len(all)-1] += line + "; "
		}
	}
	return all
}

// TestTsharkReadsEveryEvent has tshark decode one event of each kind, over UDP and TCP.
func TestTsharkReadsEveryEvent(t *testing.T) {
	const (
		quota     = "Nat Event: Quota Exceeded (13); NAT Quota Exceeded Event: "
		threshold = "Nat Event: Threshold Reached (18); NAT Threshold Event: "
	)
	inside, outside, far := ipv4.first, ipv4.outside, ipv4.server
	now := time.Now()
	all := []struct {
		event ipfix.Event
		want  string // in the order of the record, after its time
	}{
		{ipfix.Event{Kind: ipfix.SessionCreate, Proto: 6, Realm: ipfix.Private, Source: inside, PostSource: outside, Destination: far, PostDestination: far,
			SourcePort: 40001, PostSourcePort: 1025, DestPort: 443, PostDestPort: 443},
			"Nat Event: NAT44 session create (4); SrcAddr: 10.1.0.11; Post NAT Source IPv4 Address: 203.0.113.1; Protocol: TCP (6); " +
				"SrcPort: 40001 (40001); Post NAPT Source Transport Port: 1025; DstAddr: 198.51.100.9; Post NAT Destination IPv4 Address: 198.51.100.9; " +
				"DstPort: 443 (443); Post NAPT Destination Transport Port: 443; Nat Originating Address Realm: 1; "},
		{ipfix.Event{Kind: ipfix.SessionDelete, Proto: 17, Realm: ipfix.Public, Source: ipv6.first, PostSource: ipv6.outside, Destination: ipv6.server, PostDestination: ipv6.server,
			SourcePort: 40001, PostSourcePort: 1025, DestPort: 8443, PostDestPort: 8443, Octets: [2]uint64{77, 88}},
			"Nat Event: NAT44 session delete (5); SrcAddr: fd00:1::11; Post NAT Source IPv6 Address: 2001:db8:a::1; Protocol: UDP (17); " +
				"SrcPort: 40001 (40001); Post NAPT Source Transport Port: 1025; DstAddr: 2001:db8:b::9; Post NAT Destination IPv6 Address: 2001:db8:b::9; " +
				"DstPort: 8443 (8443); Post NAPT Destination Transport Port: 8443; Nat Originating Address Realm: 2; Initiator Octets: 77; Responder Octets: 88; "},
		{ipfix.Event{Kind: ipfix.MappingCreate, Proto: 17, Source: inside, PostSource: outside, SourcePort: 5060, PostSourcePort: 5061},
			"Nat Event: NAT44 BIB create (8); SrcAddr: 10.1.0.11; Post NAT Source IPv4 Address: 203.0.113.1; Protocol: UDP (17); SrcPort: 5060 (5060); Post NAPT Source Transport Port: 5061; "},
		{ipfix.Event{Kind: ipfix.MappingDelete, Proto: 17, Source: inside, PostSource: outside}, "Nat Event: NAT44 BIB delete (9); SrcAddr: 10.1.0.11; "},
		{ipfix.Event{Kind: ipfix.BlockAllocated, Source: inside, PostSource: outside, FirstPort: 1024, LastPort: 1535},
			"Nat Event: Port block allocation (16); SrcAddr: 10.1.0.11; Post NAT Source IPv4 Address: 203.0.113.1; Port Range Start: 1024; Port Range End: 1535; Port Range Step Size: 1; Port Range Num Ports: 512; "},
		{ipfix.Event{Kind: ipfix.BlockReleased, Source: inside, PostSource: outside, FirstPort: 1024, LastPort: 1535}, "Nat Event: Port block de-allocation (17); "},
		{ipfix.Event{Kind: ipfix.PortsExhausted, Proto: 6, PostSource: outside}, "Nat Event: NAT ports exhausted (12); Post NAT Source IPv4 Address: 203.0.113.1; Protocol: TCP (6); "},
		{ipfix.Event{Kind: ipfix.AddressesExhausted, Pool: 9}, "Nat Event: NAT Addresses exhausted (3); Nat Pool Id: 9; "},
		{ipfix.Event{Kind: ipfix.QuotaExceeded, Quota: ipfix.QuotaSessions, Limit: 65536}, quota + "Maximum session entries (1); Max Session Entries: 65536; "},
		{ipfix.Event{Kind: ipfix.QuotaExceeded, Quota: ipfix.QuotaMappings, Limit: 65537}, quota + "Maximum BIB entries (2); Max BIB Entries: 65537; "},
		{ipfix.Event{Kind: ipfix.QuotaExceeded, Quota: ipfix.QuotaUser, Limit: 20, Source: inside}, quota + "Maximum entries per user (3); Max Entries Per User: 20; SrcAddr: 10.1.0.11; "},
		{ipfix.Event{Kind: ipfix.QuotaExceeded, Quota: ipfix.QuotaFragments, Limit: 16384}, quota + "Maximum fragments pending reassembly (5); Max Fragments Pending Reassembly: 16384; "},
		{ipfix.Event{Kind: ipfix.ThresholdReached, Threshold: ipfix.PoolHigh, Limit: 4, Pool: 9}, threshold + "Address pool high threshold event (1); Addresspool High Threshold: 4; Nat Pool Id: 9; "},
		{ipfix.Event{Kind: ipfix.ThresholdReached, Threshold: ipfix.PoolLow, Limit: 2, Pool: 9}, threshold + "Address pool low threshold event (2); Addresspool Low Threshold: 2; Nat Pool Id: 9; "},
		{ipfix.Event{Kind: ipfix.ThresholdReached, Threshold: ipfix.MappingsHigh, Limit: 58000, PostSource: outside, Proto: 6},
			threshold + "Address and port mapping high threshold event (3); Addressport Mapping High Threshold: 58000; Post NAT Source IPv4 Address: 203.0.113.1; Protocol: TCP (6); "},
		{ipfix.Event{Kind: ipfix.ThresholdReached, Threshold: ipfix.UserHigh, Limit: 18, Source: inside},
			threshold + "Address and port mapping per user high threshold event (4); Addressport Mapping Per User High Threshold: 18; SrcAddr: 10.1.0.11; "},
		{ipfix.Event{Kind: ipfix.ThresholdReached, Threshold: ipfix.GlobalHigh, Limit: 59000}, threshold + "Global address mapping high threshold event (5); Global Address Mapping High Threshold: 59000; "},
	}
	var events []ipfix.Event
	for i := range all {
		all[i].event.Time = now
		events = append(events, all[i].event)
	}
	lab := netns.ForTest(t, netns.Topology{Prefix: "cve2e", Hosts: []string{"reader"}})
	for _, proto := range []layers.IPProtocol{layers.IPProtocolUDP, layers.IPProtocolTCP} {
		s := ipfix.Session{Domain: 7, Max: 512}
		messages := s.Templates(now)
		for left := events; len(left) > 0; {
			b, n := s.Append(nil, left, now)
			messages, left = append(messages, b), left[n:]
		}
		got := tsharkRecords(t, lab.Host("reader"), writePcap(t, proto, messages))
		if len(got) != len(all) {
			t.Fatalf("%v: tshark reads %d records of %d", proto, len(got), len(all))
		}
		for i, tt := range all {
			if !strings.Contains(got[i], "; "+tt.want) {
				t.Errorf("%v: tshark reads\n%s\nwant %s", proto, got[i], tt.want)
			}
		}
	}
}
