#include "textflag.h"

// The state of eight hashes is in Z0 to Z3.
#define ROUND \
	VPADDQ  Z1, Z0, Z0    \ // v0 += v1
	VPADDQ  Z3, Z2, Z2    \ // v2 += v3
	VPROLQ  $13, Z1, Z1   \ // v1 = v1<<<13 ^ v0
	VPROLQ  $16, Z3, Z3   \ // v3 = v3<<<16 ^ v2
	VPXORQ  Z0, Z1, Z1    \
	VPXORQ  Z2, Z3, Z3    \
	VPSHUFD $0xb1, Z0, Z0 \ // v0 = v0<<<32
	VPADDQ  Z1, Z2, Z2    \ // v2 += v1
	VPADDQ  Z3, Z0, Z0    \ // v0 += v3
	VPROLQ  $17, Z1, Z1   \ // v1 = v1<<<17 ^ v2
	VPROLQ  $21, Z3, Z3   \ // v3 = v3<<<21 ^ v0
	VPXORQ  Z2, Z1, Z1    \
	VPXORQ  Z0, Z3, Z3    \
	VPSHUFD $0xb1, Z2, Z2   // v2 = v2<<<32

#define WORD(w) \
	VPXORQ w, Z3, Z3 \
	ROUND            \
	VPXORQ w, Z0, Z0

// BROADCAST sets all words of z to key ^ constant.
#define BROADCAST(key, constant, z) \
	MOVQ         $constant, AX \
	XORQ         key, AX       \
	VPBROADCASTQ AX, z

// func sum8(sums *uint64, keys *[5]uint64, n int, k *Key)
TEXT ·sum8(SB), NOSPLIT, $0-32
	MOVQ sums+0(FP), DI
	MOVQ keys+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ k+24(FP), BX
	MOVQ 0(BX), R8
	MOVQ 8(BX), R9
	BROADCAST(R8, 0x736f6d6570736575, Z11)
	BROADCAST(R9, 0x646f72616e646f6d, Z12)
	BROADCAST(R8, 0x6c7967656e657261, Z13)
	BROADCAST(R9, 0x7465646279746573, Z14)
	MOVQ         $0xff, AX
	VPBROADCASTQ AX, Z15

loop:
	// Eight keys become eight words of each: Z4 to Z7 and Z9. Two keys share a
	// register in an order that puts the words in theirs.
	VMOVDQU      0(SI), Y4
	VINSERTI64X4 $1, 80(SI), Z4, Z4
	VMOVDQU      40(SI), Y5
	VINSERTI64X4 $1, 120(SI), Z5, Z5
	VMOVDQU      160(SI), Y6
	VINSERTI64X4 $1, 240(SI), Z6, Z6
	VMOVDQU      200(SI), Y7
	VINSERTI64X4 $1, 280(SI), Z7, Z7
	VPUNPCKLQDQ  Z5, Z4, Z0
	VPUNPCKHQDQ  Z5, Z4, Z1
	VPUNPCKLQDQ  Z7, Z6, Z2
	VPUNPCKHQDQ  Z7, Z6, Z3
	VSHUFI64X2   $0x88, Z2, Z0, Z4
	VSHUFI64X2   $0x88, Z3, Z1, Z5
	VSHUFI64X2   $0xdd, Z2, Z0, Z6
	VSHUFI64X2   $0xdd, Z3, Z1, Z7

	VMOVQ        32(SI), X9
	VPINSRQ      $1, 72(SI), X9, X9
	VMOVQ        112(SI), X8
	VPINSRQ      $1, 152(SI), X8, X8
	VINSERTI128  $1, X8, Y9, Y9
	VMOVQ        192(SI), X8
	VPINSRQ      $1, 232(SI), X8, X8
	VMOVQ        272(SI), X10
	VPINSRQ      $1, 312(SI), X10, X10
	VINSERTI128  $1, X10, Y8, Y8
	VINSERTI64X4 $1, Y8, Z9, Z9

	VMOVDQA64 Z11, Z0
	VMOVDQA64 Z12, Z1
	VMOVDQA64 Z13, Z2
	VMOVDQA64 Z14, Z3
	WORD(Z4)
	WORD(Z5)
	WORD(Z6)
	WORD(Z7)
	WORD(Z9)
	VPXORQ Z15, Z2, Z2
	ROUND
	ROUND
	ROUND
	VPXORQ    Z1, Z0, Z0
	VPXORQ    Z3, Z2, Z2
	VPXORQ    Z2, Z0, Z0
	VMOVDQU64 Z0, (DI)

	ADDQ $320, SI
	ADDQ $64, DI
	SUBQ $8, CX
	JNZ  loop
	VZEROUPPER
	RET
