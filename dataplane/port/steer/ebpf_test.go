//go:build netns

package steer

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The kernel runs the translated program over frames as a device would see them.
func TestTheTranslatedProgramAgreesWithOf(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 30 {
		table := someTable(r)
		prog, err := Load(&table)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			etherType, p := somePacket(r)
			if len(p) < 1 || etherType == unix.ETH_P_IP && len(p) < 20 || etherType == unix.ETH_P_IPV6 && len(p) < 40 {
				continue // the kernel runs no program over half a header
			}
			frame := binary.BigEndian.AppendUint16(make([]byte, 12, 14+len(p)), etherType)
			got, err := prog.Run(&ebpf.RunOptions{Data: append(frame, p...)})
			if err != nil {
				t.Fatalf("%#x % x: %v", etherType, p, err)
			}
			if want := table[Of(etherType, p)]; uint8(got) != want {
				t.Fatalf("%#x % x: program says queue %d, want %d", etherType, p, got, want)
			}
		}
		if err := prog.Close(); err != nil {
			t.Error(err)
		}
	}
}
