package steer

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack/tuple"
)

// run lets the library's machine run a program of ours over p. It knows no offsets that
// count from the IP header, and no EtherType.
func run(t testing.TB, prog []unix.SockFilter, etherType uint16, p []byte) uint8 {
	t.Helper()
	var all []bpf.Instruction
	for _, in := range prog {
		switch size := in.Code &^ (unix.BPF_LD | unix.BPF_ABS); {
		case in.K == skfAdProto && in.Code == unix.BPF_LD|size|unix.BPF_ABS:
			in = unix.SockFilter{Code: unix.BPF_LD | unix.BPF_IMM, K: uint32(etherType)}
		case in.K >= skfNet && in.K < skfAd:
			in.K -= skfNet
		}
		all = append(all, bpf.RawInstruction{Op: in.Code, Jt: in.Jt, Jf: in.Jf, K: in.K}.Disassemble())
	}
	vm, err := bpf.NewVM(all)
	if err != nil {
		t.Fatal(err)
	}
	n, err := vm.Run(p)
	if err != nil {
		t.Fatal(err)
	}
	return uint8(n)
}

// someTable returns a table with bucket 0 in queue 0, which is where what can not be
// read goes.
func someTable(r *rand.Rand) (t Table) {
	switch r.IntN(3) {
	case 0:
		return Even(1 + r.IntN(8))
	case 1:
		for range r.IntN(4) {
			for b := 1 + r.IntN(Buckets-1); b < Buckets; b++ {
				t[b] = uint8(r.IntN(3))
			}
		}
	default:
		for b := 1; b < Buckets; b++ {
			t[b] = uint8(r.IntN(256))
		}
	}
	return t
}

// somePacket returns a packet of either family, at times short or a fragment, at times
// with options.
func somePacket(r *rand.Rand) (etherType uint16, p []byte) {
	proto := []uint8{tuple.TCP, tuple.UDP, tuple.UDPLite, tuple.SCTP, tuple.DCCP, tuple.ICMP, tuple.ICMPv6, tuple.GRE, 50}[r.IntN(9)]
	switch r.IntN(8) {
	case 0:
		etherType, p = unix.ETH_P_ARP, make([]byte, 28)
	case 1, 2, 3:
		etherType, p = unix.ETH_P_IPV6, make([]byte, 40+r.IntN(30))
		fill(r, p)
		p[0], p[ip6Next] = 0x60, proto
	default:
		words := 5 + r.IntN(11)*r.IntN(2)
		etherType, p = unix.ETH_P_IP, make([]byte, words*4+r.IntN(30))
		fill(r, p)
		p[0], p[ip4Protocol] = 0x40|uint8(words), proto
		fragment := [...]uint16{0, 0, 0, 0x4000, 0x2000, 0x2001, 0x1fff}[r.IntN(7)]
		binary.BigEndian.PutUint16(p[ip4Fragment:], fragment)
	}
	if r.IntN(8) == 0 {
		p = p[:r.IntN(len(p))]
	}
	return etherType, p
}

func fill(r *rand.Rand, p []byte) {
	for i := range p {
		p[i] = byte(r.Uint32())
	}
}

func TestTheKernelsProgramAgreesWithOf(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		table := someTable(r)
		prog := Program(&table)
		if len(prog) > 4096 {
			t.Fatalf("program of %d instructions, the kernel takes 4096", len(prog))
		}
		for range 100 {
			etherType, p := somePacket(r)
			if got, want := run(t, prog, etherType, p), table[Of(etherType, p)]; got != want {
				t.Fatalf("%#x % x: program says queue %d, bucket %d is in %d of table %v", etherType, p, got, Of(etherType, p), want, table)
			}
		}
	}
}

func FuzzProgram(f *testing.F) {
	f.Add(uint16(unix.ETH_P_IP), []byte{0x4f}, uint64(3))                                                          // length of the header beyond the packet
	f.Add(uint16(unix.ETH_P_IP), []byte(append([]byte{0x40, 8: 0, 9: tuple.TCP}, make([]byte, 14)...)), uint64(3)) // length of the header is 0
	f.Add(uint16(unix.ETH_P_IPV6), make([]byte, 40), uint64(3))
	f.Fuzz(func(t *testing.T, etherType uint16, p []byte, seed uint64) {
		table := someTable(rand.New(rand.NewPCG(seed, 0)))
		if got, want := run(t, Program(&table), etherType, p), table[Of(etherType, p)]; got != want {
			t.Errorf("program says queue %d, want %d", got, want)
		}
	})
}

// packet4 and packet6 return a packet with the ports, or the identifier, a and b.
func packet4(proto uint8, src, dst uint32, a, b uint16) []byte {
	p := make([]byte, 28)
	p[0], p[ip4Protocol] = 0x45, proto
	binary.BigEndian.PutUint32(p[ip4Src:], src)
	binary.BigEndian.PutUint32(p[ip4Dst:], dst)
	transport(p[20:], proto, a, b)
	return p
}

func packet6(proto uint8, src, dst uint32, a, b uint16) []byte {
	p := make([]byte, 48)
	p[0], p[ip6Next] = 0x60, proto
	binary.BigEndian.PutUint32(p[ip6Src+12:], src)
	binary.BigEndian.PutUint32(p[ip6Dst+12:], dst)
	transport(p[40:], proto, a, b)
	return p
}

func transport(p []byte, proto uint8, a, b uint16) {
	if tuple.IsICMP(proto) {
		binary.BigEndian.PutUint16(p[offIdent:], a)
		return
	}
	binary.BigEndian.PutUint16(p, a)
	binary.BigEndian.PutUint16(p[2:], b)
}

func TestBothDirectionsOfAMasqueradedFlowAreInOneBucket(t *testing.T) {
	const client, gateway, server = 0x0a000005, 0xcb007101, 0xc6336407
	r := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		own, far := uint16(r.Uint32()), uint16(r.Uint32())
		for _, proto := range []uint8{tuple.TCP, tuple.UDP, tuple.SCTP, tuple.DCCP, tuple.UDPLite, tuple.ICMP} {
			out := Of(unix.ETH_P_IP, packet4(proto, client, server, own, far))
			back := packet4(proto, server, gateway, far, own)
			if tuple.IsICMP(proto) {
				back = packet4(proto, server, gateway, own, far)
			}
			if got := Of(unix.ETH_P_IP, back); got != out {
				t.Fatalf("protocol %d, ports %d and %d: out %d, back %d", proto, own, far, out, got)
			}
		}
		out := Of(unix.ETH_P_IPV6, packet6(tuple.TCP, client, server, own, far))
		if back := Of(unix.ETH_P_IPV6, packet6(tuple.TCP, server, gateway, far, own)); back != out {
			t.Fatalf("IPv6, ports %d and %d: out %d, back %d", own, far, out, back)
		}
	}
}

func TestAllFragmentsOfADatagramAreInOneBucket(t *testing.T) {
	first, last := packet4(tuple.UDP, 1, 2, 53, 5353), packet4(tuple.UDP, 1, 2, 0xffff, 0x1234)
	binary.BigEndian.PutUint16(first[ip4Fragment:], 0x2000)
	binary.BigEndian.PutUint16(last[ip4Fragment:], 185)
	if a, b := Of(unix.ETH_P_IP, first), Of(unix.ETH_P_IP, last); a != b {
		t.Errorf("first fragment in bucket %d, last one in %d", a, b)
	}
}

// Clients take ports one after the other, or every second one, towards few ports of
// servers: that must not be few buckets.
func TestPortsThatClientsTakeSpreadOverTheBuckets(t *testing.T) {
	for _, step := range []int{1, 2, 64, 128} {
		var got [Buckets]int
		for i := range 512 {
			got[Of(unix.ETH_P_IP, packet4(tuple.TCP, 1, 2, uint16(32768+i*step), 443))]++
		}
		used := 0
		for _, n := range got {
			if n > 0 {
				used++
			}
		}
		if used < Buckets/2 {
			t.Errorf("every %d. port: %d of %d buckets", step, used, Buckets)
		}
	}
}

func TestEvenTablesGiveEveryQueueItsShare(t *testing.T) {
	for n := 1; n <= Buckets+3; n++ {
		share := map[uint8]int{}
		for _, q := range Even(n) {
			share[q]++
		}
		want := min(n, Buckets)
		if len(share) != want {
			t.Errorf("%d queues: %d have buckets, want %d", n, len(share), want)
		}
		for q, k := range share {
			if k < Buckets/want || k > Buckets/want+1 {
				t.Errorf("%d queues: queue %d has %d buckets", n, q, k)
			}
		}
	}
}

// With one queue a packet costs one instruction.
func TestOneQueueIsOneInstruction(t *testing.T) {
	even := Even(1)
	if n := len(Program(&even)); n != 1 {
		t.Errorf("%d instructions", n)
	}
}
