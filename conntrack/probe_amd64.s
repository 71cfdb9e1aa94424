//go:build !race

#include "textflag.h"

// func seek(home, hash *uint64, n int, buckets *bucket, count int)
TEXT ·seek(SB), NOSPLIT, $0-40
	MOVQ home+0(FP), DI
	MOVQ hash+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ buckets+24(FP), R8
	MOVQ count+32(FP), R9
	LEAQ (DI)(CX*8), DI
	LEAQ (SI)(CX*8), SI
	NEGQ CX

next:
	MOVQ       (SI)(CX*8), AX
	MULQ       R9              // DX: bucket
	MOVQ       DX, (DI)(CX*8)
	SHLQ       $6, DX
	PREFETCHT0 (R8)(DX*1)
	INCQ       CX
	JNZ        next
	RET

// func probe(ids *uint32, home, hash *uint64, n int, buckets *bucket, entries *Entry)
TEXT ·probe(SB), NOSPLIT, $0-48
	MOVQ ids+0(FP), DI
	MOVQ home+8(FP), BX
	MOVQ hash+16(FP), SI
	MOVQ n+24(FP), CX
	MOVQ buckets+32(FP), R8
	MOVQ entries+40(FP), R9
	LEAQ (DI)(CX*4), DI
	LEAQ (BX)(CX*8), BX
	LEAQ (SI)(CX*8), SI
	NEGQ CX
	XORL R12, R12

next:
	// The tag of the hash, see tagOf.
	MOVWLZX (SI)(CX*8), AX
	CMPL    AX, $1
	ADCL    $0, AX

	// Which places have it: two bits each.
	MOVQ         (BX)(CX*8), DX
	SHLQ         $6, DX
	VMOVD        AX, X0
	VPBROADCASTW X0, Y0
	VPCMPEQW     (R8)(DX*1), Y0, Y0
	VPMOVMSKB    Y0, R10
	ANDL         $0xfffff, R10

	// The value of the first of them, 0 if there is none.
	MOVL    R10, R11
	ORL     $0xc0000, R11 // there is a last place
	BSFL    R11, R11
	LEAQ    (R8)(DX*1), DX
	MOVL    24(DX)(R11*2), AX
	TESTL   R10, R10
	CMOVLEQ R12, AX
	MOVL    AX, (DI)(CX*4)

	// Its entry: three lines.
	SHRL       $1, AX
	LEAQ       (AX)(AX*2), AX
	SHLQ       $6, AX
	ADDQ       R9, AX
	PREFETCHT0 (AX)
	PREFETCHT0 64(AX)
	PREFETCHT0 128(AX)
	INCQ       CX
	JNZ        next
	VZEROUPPER
	RET
