package sip

import "golang.org/x/sys/cpu"

// lanes is how many keys sumLanes hashes side by side, 0 if it cannot.
var lanes = map[bool]int{true: 4}[cpu.X86.HasAVX2]

// sumLanes is SumAll for n keys, a multiple of four, with AVX2.
//
//go:noescape
func sumLanes(sums *uint64, keys *[5]uint64, n int, k *Key)
