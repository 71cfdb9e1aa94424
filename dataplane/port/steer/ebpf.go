package steer

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Registers of a translated program. Loads change R1 to R5 and want the context in R6.
const (
	regA   = asm.R0
	regCtx = asm.R6
	regX   = asm.R7
	regMem = asm.R8 // M[0], the only word of memory that Program uses
)

const protocolOffset = 16 // of protocol in struct __sk_buff, big-endian

// Load returns t as an eBPF program for a device that takes no classic filter
// (TUNSETSTEERINGEBPF). It needs CAP_BPF; the caller closes it.
func Load(t *Table) (*ebpf.Program, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "culvert_steer", Type: ebpf.SocketFilter, License: "Dual BSD/GPL", Instructions: translate(Program(t)),
	})
	if err != nil {
		return nil, fmt.Errorf("load steering program: %w", err)
	}
	return prog, nil
}

// translate returns the same program in eBPF, for what Program uses of the classic one.
func translate(classic []unix.SockFilter) asm.Instructions {
	out := asm.Instructions{
		asm.Mov.Reg(regCtx, asm.R1),
		asm.Mov.Imm(regX, 0),
		asm.Mov.Imm(regMem, 0),
	}
	name := func(i int) string { return fmt.Sprintf("at%d", i) }
	for i := range classic {
		at := len(out)
		out = append(out, instruction(&classic[i], name(i+1+int(classic[i].Jt)), name(i+1+int(classic[i].K)))...)
		out[at] = out[at].WithSymbol(name(i))
	}
	return out
}

// instruction translates one instruction; yes and always are where a jump goes.
func instruction(in *unix.SockFilter, yes, always string) asm.Instructions {
	k := int32(in.K)
	sizes := map[uint16]asm.Size{unix.BPF_W: asm.Word, unix.BPF_H: asm.Half, unix.BPF_B: asm.Byte}
	size := sizes[in.Code&(unix.BPF_W|unix.BPF_H|unix.BPF_B)]
	switch in.Code {
	case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, unix.BPF_LD | unix.BPF_B | unix.BPF_ABS:
		if in.K == skfAdProto {
			return asm.Instructions{asm.LoadMem(regA, regCtx, protocolOffset, asm.Word), asm.HostTo(asm.BE, regA, asm.Half)}
		}
		return asm.Instructions{asm.LoadAbs(k, size)}
	case unix.BPF_LD | unix.BPF_H | unix.BPF_IND:
		return asm.Instructions{asm.LoadInd(regA, regX, k, size)}
	case unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH: // A is set anew before it is read
		return asm.Instructions{asm.LoadAbs(k, asm.Byte), asm.Mov.Reg(regX, regA), asm.And.Imm(regX, 0xf), asm.LSh.Imm(regX, 2)}
	case unix.BPF_LD | unix.BPF_IMM:
		return asm.Instructions{asm.Mov.Imm(regA, k)}
	case unix.BPF_LDX | unix.BPF_IMM:
		return asm.Instructions{asm.Mov.Imm(regX, k)}
	case unix.BPF_LDX | unix.BPF_MEM:
		return asm.Instructions{asm.Mov.Reg(regX, regMem)}
	case unix.BPF_ST:
		return asm.Instructions{asm.Mov.Reg(regMem, regA)}
	case unix.BPF_MISC | unix.BPF_TAX:
		return asm.Instructions{asm.Mov.Reg(regX, regA)}
	case unix.BPF_ALU | unix.BPF_XOR | unix.BPF_X:
		return asm.Instructions{asm.Xor.Reg32(regA, regX)}
	case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
		return asm.Instructions{asm.And.Imm32(regA, k)}
	case unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K:
		return asm.Instructions{asm.RSh.Imm32(regA, k)}
	case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
		return asm.Instructions{asm.JEq.Imm(regA, k, yes)}
	case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
		return asm.Instructions{asm.JGE.Imm(regA, k, yes)}
	case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
		return asm.Instructions{asm.JSet.Imm(regA, k, yes)}
	case unix.BPF_JMP | unix.BPF_JA:
		return asm.Instructions{asm.Ja.Label(always)}
	case unix.BPF_RET | unix.BPF_K:
		return asm.Instructions{asm.Mov.Imm(regA, k), asm.Return()}
	}
	panic(fmt.Sprintf("classic instruction %#x has no translation", in.Code))
}
