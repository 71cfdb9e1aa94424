#include "textflag.h"

// The state of four hashes is in Y0 to Y3. Y15 rotates words by 16 bits.
#define ROUND \
	VPADDQ  Y1, Y0, Y0    \ // v0 += v1
	VPADDQ  Y3, Y2, Y2    \ // v2 += v3
	VPSLLQ  $13, Y1, Y8   \ // v1 = v1<<<13 ^ v0
	VPSRLQ  $51, Y1, Y1   \
	VPSHUFB Y15, Y3, Y3   \ // v3 = v3<<<16 ^ v2
	VPOR    Y8, Y1, Y1    \
	VPXOR   Y2, Y3, Y3    \
	VPXOR   Y0, Y1, Y1    \
	VPSHUFD $0xb1, Y0, Y0 \ // v0 = v0<<<32
	VPADDQ  Y1, Y2, Y2    \ // v2 += v1
	VPADDQ  Y3, Y0, Y0    \ // v0 += v3
	VPSLLQ  $21, Y3, Y10  \ // v3 = v3<<<21 ^ v0
	VPSRLQ  $43, Y3, Y3   \
	VPSLLQ  $17, Y1, Y8   \ // v1 = v1<<<17 ^ v2
	VPSRLQ  $47, Y1, Y1   \
	VPOR    Y10, Y3, Y3   \
	VPOR    Y8, Y1, Y1    \
	VPXOR   Y0, Y3, Y3    \
	VPXOR   Y2, Y1, Y1    \
	VPSHUFD $0xb1, Y2, Y2   // v2 = v2<<<32

#define WORD(w) \
	VPXOR w, Y3, Y3 \
	ROUND           \
	VPXOR w, Y0, Y0

DATA rotate16<>+0(SB)/8, $0x0504030201000706
DATA rotate16<>+8(SB)/8, $0x0d0c0b0a09080f0e
GLOBL rotate16<>(SB), RODATA|NOPTR, $16

// BROADCAST sets all words of y, whose lower half is x, to key ^ constant.
#define BROADCAST(key, constant, x, y) \
	MOVQ         $constant, AX \
	XORQ         key, AX       \
	VMOVQ        AX, x         \
	VPBROADCASTQ x, y

// func sum4(sums *uint64, keys *[5]uint64, n int, k *Key)
TEXT ·sum4(SB), NOSPLIT, $0-32
	MOVQ sums+0(FP), DI
	MOVQ keys+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ k+24(FP), BX
	MOVQ 0(BX), R8
	MOVQ 8(BX), R9
	BROADCAST(R8, 0x736f6d6570736575, X11, Y11)
	BROADCAST(R9, 0x646f72616e646f6d, X12, Y12)
	BROADCAST(R8, 0x6c7967656e657261, X13, Y13)
	BROADCAST(R9, 0x7465646279746573, X14, Y14)
	VBROADCASTI128 rotate16<>(SB), Y15
	MOVQ $0xff, R10

loop:
	// Four keys become four words of each: Y4 to Y7 and Y9.
	VMOVDQU     0(SI), Y4
	VMOVDQU     40(SI), Y5
	VMOVDQU     80(SI), Y6
	VMOVDQU     120(SI), Y7
	VMOVQ       32(SI), X9
	VPINSRQ     $1, 72(SI), X9, X9
	VMOVQ       112(SI), X8
	VPINSRQ     $1, 152(SI), X8, X8
	VINSERTI128 $1, X8, Y9, Y9
	VPUNPCKLQDQ Y5, Y4, Y0
	VPUNPCKHQDQ Y5, Y4, Y1
	VPUNPCKLQDQ Y7, Y6, Y2
	VPUNPCKHQDQ Y7, Y6, Y3
	VPERM2I128  $0x20, Y2, Y0, Y4
	VPERM2I128  $0x20, Y3, Y1, Y5
	VPERM2I128  $0x31, Y2, Y0, Y6
	VPERM2I128  $0x31, Y3, Y1, Y7

	VMOVDQA Y11, Y0
	VMOVDQA Y12, Y1
	VMOVDQA Y13, Y2
	VMOVDQA Y14, Y3
	WORD(Y4)
	WORD(Y5)
	WORD(Y6)
	WORD(Y7)
	WORD(Y9)

	VMOVQ        R10, X8
	VPBROADCASTQ X8, Y8
	VPXOR        Y8, Y2, Y2
	ROUND
	ROUND
	ROUND
	VPXOR   Y1, Y0, Y0
	VPXOR   Y3, Y2, Y2
	VPXOR   Y2, Y0, Y0
	VMOVDQU Y0, (DI)

	ADDQ $160, SI
	ADDQ $32, DI
	SUBQ $4, CX
	JNZ  loop
	VZEROUPPER
	RET
