package own

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"example.com/culvert/dataplane/port"
)

// Verdicts of TCX programs (linux/bpf.h).
const (
	tcxNext = -1
	tcxDrop = 2
)

const (
	markOffset  = 8 // of mark in struct __sk_buff
	toIngress   = 1 // BPF_F_INGRESS
	toEgress    = 0
	keyOnStack  = -4
	wordsOfStat = 8
)

// counter is a key of the map of counters.
type counter uint32

const (
	ingressDropped counter = iota
	ingressPassed
	egressDropped
	egressPassed
	egressRedirected
	hostRedirected
	numCounters
)

// newCounters returns the map that the programs count in, a value for each CPU.
func newCounters() (*ebpf.Map, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "culvert_own", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: wordsOfStat, MaxEntries: uint32(numCounters),
	})
	if err != nil {
		return nil, fmt.Errorf("make map of counters (needs CAP_BPF): %w", err)
	}
	return m, nil
}

// count adds one to c. It changes R0 to R5.
func count(m *ebpf.Map, c counter) asm.Instructions {
	end := fmt.Sprintf("counted%d", c)
	return asm.Instructions{
		asm.StoreImm(asm.RFP, keyOnStack, int64(c), asm.Word),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, keyOnStack),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, end),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 0).WithSymbol(end),
	}
}

func verdict(v int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, v), asm.Return()}
}

// redirect ends the program by sending the frame to interface index.
func redirect(index, flags int) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R1, int32(index)),
		asm.Mov.Imm(asm.R2, int32(flags)),
		asm.FnRedirect.Call(),
		asm.Return(),
	}
}

// unlessMarked runs otherwise for frames without the given mark, and counts the others as passed.
func unlessMarked(m *ebpf.Map, mark uint32, passed counter, otherwise ...asm.Instructions) asm.Instructions {
	prog := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, markOffset, asm.Word),
		asm.JEq.Imm32(asm.R2, int32(mark), "pass"),
	}
	for _, o := range otherwise {
		prog = append(prog, o...)
	}
	pass := count(m, passed)
	pass[0] = pass[0].WithSymbol("pass")
	prog = append(prog, pass...)
	return append(prog, verdict(tcxNext)...)
}

func ingress(m *ebpf.Map) asm.Instructions {
	return unlessMarked(m, port.ReinjectMark, ingressPassed, count(m, ingressDropped), verdict(tcxDrop))
}

func egress(m *ebpf.Map, host *HostPath) asm.Instructions {
	if host == nil {
		return unlessMarked(m, port.OursMark, egressPassed, count(m, egressDropped), verdict(tcxDrop))
	}
	return unlessMarked(m, port.OursMark, egressPassed, setMark(), redirect(host.TAP, toEgress))
}

// setMark puts ReinjectMark on the frame: it is on the way between kernel and gateway.
func setMark() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R2, int32(port.ReinjectMark)),
		asm.StoreMem(asm.R1, markOffset, asm.R2, asm.Word),
	}
}

// ontoTAP is the program of the TAP's other direction: only what egress redirected
// leaves by it. The kernel has words of its own for every interface that it sees.
func ontoTAP(m *ebpf.Map) asm.Instructions {
	return unlessMarked(m, port.ReinjectMark, egressRedirected, count(m, egressDropped), verdict(tcxDrop))
}

// intoKernel is the program of the TAP: what the gateway wrote arrives on interface ifindex.
func intoKernel(m *ebpf.Map, ifindex int) asm.Instructions {
	prog := append(setMark(), count(m, hostRedirected)...)
	return append(prog, redirect(ifindex, toIngress)...)
}

func load(name string, at ebpf.AttachType, prog asm.Instructions) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "culvert_" + name, Type: ebpf.SchedCLS, AttachType: at, Instructions: prog, License: "Apache-2.0",
	})
	if err != nil {
		return nil, fmt.Errorf("load %s program (needs CAP_BPF and CAP_NET_ADMIN): %w", name, err)
	}
	return p, nil
}
