package sip

import "testing"

// TestSumAllIsSumOnOlderProcessors takes the ways that this processor need not.
func TestSumAllIsSumOnOlderProcessors(t *testing.T) {
	defer func(avx2, avx512 bool) { hasAVX2, hasAVX512 = avx2, avx512 }(hasAVX2, hasAVX512)
	hasAVX512 = false
	t.Run("AVX2", TestSumAllIsSum)
	hasAVX2 = false
	t.Run("neither", TestSumAllIsSum)
}

func BenchmarkSumAllAVX2(b *testing.B) {
	defer func(had bool) { hasAVX512 = had }(hasAVX512)
	hasAVX512 = false
	BenchmarkSumAll(b)
}
