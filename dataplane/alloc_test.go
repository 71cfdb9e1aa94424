package dataplane

import (
	"encoding/binary"
	"testing"

	"example.com/culvert/conntrack"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// bulk is a port that gives the same frames again and again and forgets what is
// sent, so that a measurement sees the engine alone.
type bulk struct {
	info   port.Info
	memory []byte
	frames [][]byte // the frames of a batch, in memory behind packet.Headroom bytes each
	fresh  [][]byte // what they are before each Recv
	mutate func(frames [][]byte)
	heads  int // bytes of each frame that mutate and the walk change, 0: all
	idle   bool
	sent   int
}

const bulkSlot = 2112 // 33 cache lines, as the ring of the packet socket

func newBulk(name string, link packet.Link) *bulk {
	return &bulk{
		info:   port.Info{Name: name, Link: link, MAC: [6]byte{2, 0, 0, 0, 0, 1}, MTU: 1500, Up: true, NumQueues: 1},
		memory: make([]byte, Batch*bulkSlot), idle: true,
	}
}

// load makes frames what the port receives from now on, one batch a Step.
func (b *bulk) load(frames [][]byte, mutate func([][]byte)) {
	b.mutate, b.heads, b.idle = mutate, 0, false
	b.fresh, b.frames = frames, b.frames[:0]
	for i, f := range frames {
		at := i*bulkSlot + packet.Headroom
		b.frames = append(b.frames, b.memory[at:at+len(f)])
	}
}

func (b *bulk) Info() port.Info                     { return b.info }
func (b *bulk) Refresh() (port.Info, error)         { return b.info, nil }
func (b *bulk) Queue(int) port.Queue                { return b }
func (b *bulk) NewSender() (port.Sender, error)     { return b, nil }
func (b *bulk) Close() error                        { return nil }
func (b *bulk) FD() int                             { return -1 }
func (b *bulk) Stats() port.Stats                   { return port.Stats{} }
func (b *bulk) Release()                            {}
func (b *bulk) Flush() (n [port.NumStatuses]uint32) { return n }

func (b *bulk) Send(p *packet.Packet) port.Status {
	b.sent++
	return port.Fit(p, b.info.Link, b.info.MTU, port.NoGSO)
}

func (b *bulk) Recv(pkts []packet.Packet) int {
	if b.idle {
		return 0
	}
	if b.mutate != nil {
		b.mutate(b.fresh)
	}
	for i, f := range b.fresh {
		if b.heads == 0 {
			copy(b.frames[i], f)
		} else {
			copy(b.frames[i][:b.heads], f)
		}
		p := &pkts[i]
		p.Mem, p.Off, p.End = b.memory[i*bulkSlot:(i+1)*bulkSlot], packet.Headroom, packet.Headroom+len(f)
		p.Offload, p.HasVLAN, p.Link, p.LinkKind = packet.Offload{Flags: packet.DataValid}, false, b.info.Link, 0
	}
	return len(b.fresh)
}

// bulkLab is an engine between two bulk ports that masquerades.
func bulkLab(t testing.TB, max int) (e *Engine, lan, wan *bulk) {
	t.Helper()
	return bulkLabWith(t, max, nil)
}

// bulkLabWith is bulkLab with other rules.
func bulkLabWith(t testing.TB, max int, edit func(*rules.Spec)) (e *Engine, lan, wan *bulk) {
	t.Helper()
	e, lan, wan = openBulk(t, bulkConfig{table: conntrack.Config{Max: max}, rules: edit})
	t.Cleanup(func() { closeBulk(t, e) })
	return e, lan, wan
}

// bulkConfig says how an engine between bulk ports differs from the usual one.
type bulkConfig struct {
	table  conntrack.Config    // Max is required
	engine Config              // but for the table
	rules  func(s *rules.Spec) // default: masquerade IPv4 to wan
}

// openBulk makes an engine between two bulk ports, for closeBulk.
func openBulk(t testing.TB, cfg bulkConfig) (e *Engine, lan, wan *bulk) {
	t.Helper()
	table, err := conntrack.New(cfg.table)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{TB: t, ports: map[string]*mem.Port{}}
	cfg.engine.Table, cfg.engine.Seed = table, 1
	if e, err = New(cfg.engine); err != nil {
		t.Fatal(err)
	}
	lan, wan = newBulk("lan", packet.LinkEthernet), newBulk("wan", packet.LinkEthernet)
	st := State{Ports: []PortConfig{
		{ID: lanID, Name: "lan", Port: lan, Addresses: prefixes("10.0.0.1/8")},
		{ID: wanID, Name: "wan", Port: wan, Addresses: prefixes("203.0.113.1/24")},
	}}
	st.Routes = l.routes(&st)
	st.Program = l.program(&st, cfg.rules)
	if err := e.Apply(st); err != nil {
		t.Fatal(err)
	}
	e.neigh.Ask(wanID, addr("203.0.113.254"), 1, 0)
	e.NeighbourLearned(wanID, addr("203.0.113.254"), [6]byte{2, 9})
	return e, lan, wan
}

// closeBulk gives back what openBulk took.
func closeBulk(t testing.TB, e *Engine) {
	e.Close()
	if err := e.table.Close(); err != nil {
		t.Error(err)
	}
}

// loadHeads is load of frames of which no more than the first heads bytes change. Where they
// are those that came last, the rest of them is there already.
func (b *bulk) loadHeads(frames [][]byte, mutate func([][]byte), heads int) {
	if len(b.fresh) != len(frames) || &b.fresh[0] != &frames[0] {
		b.load(frames, mutate)
		for i, f := range frames {
			copy(b.frames[i], f)
		}
	}
	b.mutate, b.heads, b.idle = mutate, heads, false
}

// retarget makes frame i of a batch the packet of flow n: source address, port and
// checksums follow. Frames are IPv4 with a transport checksum of zero (UDP) or none checked.
func retarget(frame []byte, n uint32) {
	aim(frame, n, 0xc6336400|n%251) // many destinations: ports are kept
}

// aim is retarget to one destination.
func aim(frame []byte, n, dst uint32) {
	ip := frame[14:]
	port := uint16(1024 + n%60000)
	client := 5 + n/60000
	binary.BigEndian.PutUint32(ip[12:], 10<<24|client)
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^sum(0, ip[:20]))
	binary.BigEndian.PutUint16(ip[20:], port)
	binary.BigEndian.PutUint32(ip[16:], dst)
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^sum(0, ip[:20]))
}

// batchOf returns Batch frames like ip.
func batchOf(ip []byte) [][]byte {
	all := make([][]byte, Batch)
	for i := range all {
		all[i] = ethernet([6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 5}, ip)
	}
	return all
}

func TestBatchesDoNotAllocate(t *testing.T) {
	tests := []struct {
		claim string
		ip    []byte
		flows uint32 // 0: every packet is a new flow
		runs  int
		rules func(*rules.Spec)
	}{
		{"established udp", udp("10.0.0.5:1", "198.51.100.7:53", body("payload")), Batch, 200, nil},
		{"established tcp", tcp("10.0.0.5:1", "198.51.100.7:80", flags(packet.ACK), seq(1, 1)), Batch, 200, nil},
		{"new udp flows", udp("10.0.0.5:1", "198.51.100.7:53", body("payload")), 0, 200, nil},
		{"new tcp flows", tcp("10.0.0.5:1", "198.51.100.7:80", seq(1, 0)), 0, 200, nil},
		{"new flows, independent of endpoints", udp("10.0.0.5:1", "198.51.100.7:53"), 0, 200, translate(nat.EndpointIndependent, nat.AddressDependent, nil)},
		{"new flows, by address and port", udp("10.0.0.5:1", "198.51.100.7:53"), 0, 200,
			translate(nat.AddressAndPortDependent, nat.AddressAndPortDependent, nil)},
		{"new flows in blocks, with a quota", udp("10.0.0.5:1", "198.51.100.7:53"), 0, 200,
			translate(nat.EndpointIndependent, nat.AddressDependent, func(s *nat.Source) {
				s.BlockSize, s.MaxBlocks, s.PortsPerClient = 4096, 16, 60000
			})},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			e, lan, wan := bulkLabWith(t, 1<<16, tt.rules)
			w, n, now := e.Worker(0), uint32(0), int64(1e12)
			lan.load(batchOf(tt.ip), func(frames [][]byte) {
				for _, f := range frames {
					retarget(f, n)
					if n++; n == tt.flows {
						n = 0
					}
				}
			})
			w.Step(now)
			w.Step(now)
			if got := testing.AllocsPerRun(tt.runs, func() { now += 1e6; w.Step(now) }); got != 0 {
				t.Errorf("%v allocations a batch, want 0", got)
			}
			if s := e.Stats(); s.Forwarded != s.Received || int(s.Forwarded) != wan.sent {
				t.Errorf("received %d, forwarded %d, sent %d: the measurement is of something else; dropped %v", s.Received, s.Forwarded, wan.sent, s.Dropped)
			}
		})
	}
	t.Run("software segmentation", func(t *testing.T) {
		l := newLab(t, labConfig{})
		f := superTCP(l, "lan", "10.0.0.5:1", "198.51.100.7:80", 20000, 1400)
		p := packet.Packet{Mem: make([]byte, 65536)}
		out := newBulk("out", packet.LinkEthernet)
		eg := l.e.view.Load().portOf(wanID)
		l.w.begin(l.now)
		if got := testing.AllocsPerRun(20, func() {
			p.Off, p.End, p.Offload, p.Link = packet.Headroom, packet.Headroom+copy(p.Mem[packet.Headroom:], f.Data), f.Offload, packet.LinkEthernet
			if fault := packet.Parse(&p); fault != packet.OK {
				t.Fatal(fault)
			}
			if why := l.w.put(out, &p, eg); why != None {
				t.Fatal(why)
			}
			l.w.flush()
		}); got != 0 {
			t.Errorf("%v allocations a super-frame, want 0", got)
		}
	})
}

func TestRetargetMakesSoundPackets(t *testing.T) {
	f := batchOf(noSum(udp("10.0.0.5:1", "198.51.100.7:53")))[0]
	retarget(f, 123456)
	if got, want := describeIP(f[14:], false), "udp 10.0.0.7:4480 > 198.51.100.215:53 ttl 64 len 0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
