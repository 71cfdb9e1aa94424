package steer

import "golang.org/x/sys/unix"

// Where a classic filter finds things (linux/filter.h).
const (
	skfAd      = 1<<32 - 0x1000   // SKF_AD_OFF, -0x1000 as the kernel reads it
	skfAdProto = skfAd + 0        // SKF_AD_PROTOCOL: the EtherType behind a tag that was stripped
	skfNet     = 1<<32 - 0x100000 // SKF_NET_OFF: from the IP header on
)

// Program returns t as a classic filter that returns the queue of a packet. Where a
// packet is too short the kernel takes queue 0.
func Program(t *Table) []unix.SockFilter {
	if t.constant() {
		return []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: uint32(t[0])}}
	}
	var a assembler
	a.load(unix.BPF_W, skfAdProto)
	a.jump(unix.ETH_P_IP, "ip4")
	a.jump(unix.ETH_P_IPV6, "ip6")
	a.op(unix.BPF_LD|unix.BPF_IMM, 0)
	a.always("find")

	a.label("ip4")
	a.load(unix.BPF_H, skfNet+ip4Fragment)
	a.op(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, fragmented)
	a.aim("addresses4", "")
	a.op(unix.BPF_LDX|unix.BPF_B|unix.BPF_MSH, skfNet) // X: length of the header
	a.load(unix.BPF_B, skfNet+ip4Protocol)
	a.jump(unix.IPPROTO_ICMP, "ident")
	a.transport()
	a.label("addresses4")
	a.load(unix.BPF_W, skfNet+ip4Src)
	a.op(unix.BPF_MISC|unix.BPF_TAX, 0)
	a.load(unix.BPF_W, skfNet+ip4Dst)
	a.op(unix.BPF_ALU|unix.BPF_XOR|unix.BPF_X, 0)
	a.always("addresses")

	a.label("ip6")
	a.op(unix.BPF_LDX|unix.BPF_IMM, ip6Length)
	a.load(unix.BPF_B, skfNet+ip6Next)
	a.jump(unix.IPPROTO_ICMPV6, "ident")
	a.transport()
	a.load(unix.BPF_W, skfNet+ip6Src)
	for i := uint32(4); i < 2*16; i += 4 { // the destination follows the source
		a.op(unix.BPF_MISC|unix.BPF_TAX, 0)
		a.load(unix.BPF_W, skfNet+ip6Src+i)
		a.op(unix.BPF_ALU|unix.BPF_XOR|unix.BPF_X, 0)
	}

	a.label("addresses")
	a.fold(16)
	a.op(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, 0xffff)
	a.always("bucket")

	a.label("ident")
	a.op(unix.BPF_LD|unix.BPF_H|unix.BPF_IND, skfNet+offIdent)
	a.always("bucket")

	a.label("ports")
	a.op(unix.BPF_LD|unix.BPF_H|unix.BPF_IND, skfNet+offPorts)
	a.op(unix.BPF_ST, 0)
	a.op(unix.BPF_LD|unix.BPF_H|unix.BPF_IND, skfNet+offPorts+2)
	a.op(unix.BPF_LDX|unix.BPF_MEM, 0)
	a.op(unix.BPF_ALU|unix.BPF_XOR|unix.BPF_X, 0)

	a.label("bucket") // tuple.PortBucket: x ^ x>>6 ^ x>>12
	a.op(unix.BPF_ST, 0)
	a.op(unix.BPF_ALU|unix.BPF_RSH|unix.BPF_K, 6)
	a.op(unix.BPF_LDX|unix.BPF_MEM, 0)
	a.op(unix.BPF_ALU|unix.BPF_XOR|unix.BPF_X, 0)
	a.op(unix.BPF_ALU|unix.BPF_RSH|unix.BPF_K, 6)
	a.op(unix.BPF_ALU|unix.BPF_XOR|unix.BPF_X, 0)
	a.op(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, Buckets-1)
	a.label("find")
	a.find(t, 0, Buckets)
	return a.link()
}

// constant reports whether all buckets are one queue's.
func (t *Table) constant() bool {
	for _, q := range t {
		if q != t[0] {
			return false
		}
	}
	return true
}

// assembler collects a program whose jumps name labels.
type assembler struct {
	prog   []unix.SockFilter
	labels map[string]int
	aims   []aim
}

// aim is a jump: "" is the next instruction.
type aim struct {
	at       int
	yes, no  string
	distance bool // in K, not in Jt and Jf
}

func (a *assembler) op(code uint16, k uint32) {
	a.prog = append(a.prog, unix.SockFilter{Code: code, K: k})
}

func (a *assembler) load(size uint16, k uint32) { a.op(unix.BPF_LD|size|unix.BPF_ABS, k) }

func (a *assembler) label(name string) {
	if a.labels == nil {
		a.labels = make(map[string]int)
	}
	a.labels[name] = len(a.prog)
}

// aim says where the jump that was added last goes.
func (a *assembler) aim(yes, no string) {
	a.aims = append(a.aims, aim{at: len(a.prog) - 1, yes: yes, no: no})
}

// jump goes to a label if A is k.
func (a *assembler) jump(k uint32, to string) {
	a.op(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, k)
	a.aim(to, "")
}

func (a *assembler) always(to string) {
	a.op(unix.BPF_JMP|unix.BPF_JA, 0)
	a.aims = append(a.aims, aim{at: len(a.prog) - 1, yes: to, distance: true})
}

// transport goes to "ports" if protocol A has some (tuple.HasPorts).
func (a *assembler) transport() {
	for _, p := range []uint32{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP, unix.IPPROTO_UDPLITE} {
		a.jump(p, "ports")
	}
}

// fold makes A A ^ A>>n.
func (a *assembler) fold(n uint32) {
	a.op(unix.BPF_ST, 0)
	a.op(unix.BPF_ALU|unix.BPF_RSH|unix.BPF_K, n)
	a.op(unix.BPF_LDX|unix.BPF_MEM, 0)
	a.op(unix.BPF_ALU|unix.BPF_XOR|unix.BPF_X, 0)
}

// find returns the queue of bucket A, which is one of from..to-1: at most six comparisons.
func (a *assembler) find(t *Table, from, to int) {
	middle := from
	for b := from + 1; b < to; b++ { // of the places where the queue changes, the one next to the middle
		if t[b] != t[b-1] && (middle == from || 2*b-from-to <= from+to-2*middle) {
			middle = b
		}
	}
	if middle == from {
		a.op(unix.BPF_RET|unix.BPF_K, uint32(t[from]))
		return
	}
	at := len(a.prog)
	a.op(unix.BPF_JMP|unix.BPF_JGE|unix.BPF_K, uint32(middle))
	a.find(t, from, middle)
	a.prog[at].Jt = uint8(len(a.prog) - at - 1) // at most 63 comparisons and 64 returns
	a.find(t, middle, to)
}

func (a *assembler) link() []unix.SockFilter {
	for _, j := range a.aims {
		in := &a.prog[j.at]
		switch {
		case j.distance:
			in.K = uint32(a.labels[j.yes] - j.at - 1)
		default:
			in.Jt = uint8(a.distance(j.at, j.yes))
			in.Jf = uint8(a.distance(j.at, j.no))
		}
	}
	return a.prog
}

func (a *assembler) distance(at int, to string) int {
	if to == "" {
		return 0
	}
	return a.labels[to] - at - 1
}
