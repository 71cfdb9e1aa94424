package dataplane

import (
	"encoding/binary"
	"maps"
	"slices"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/keep/keeptest"
	"example.com/culvert/nat"
)

// richLab is a lab whose flows have ports of their own, kept for their client when they
// have ended.
func richLab(t testing.TB) *lab {
	t.Helper()
	hold := func(s *nat.Source) { s.HoldDown = 120 * time.Second }
	return parrotLab(t, labConfig{kept: true, rules: translate(nat.EndpointIndependent, nat.AddressDependent, hold)}, alg.Options{})
}

// Whatever a process leaves that was killed, or that somebody has scribbled in, its
// successor comes up with sound tables and with flows that it can say where they are.
func FuzzRemains(f *testing.F) {
	seed := func(changes ...[3]uint32) {
		var b []byte
		for _, c := range changes {
			b = append(b, byte(c[0]))
			b = binary.BigEndian.AppendUint32(b, c[1])
			b = append(b, byte(c[2]))
		}
		f.Add(b)
	}
	l := richLab(f)
	l.fillRich()
	left := l.memory.Left()
	names := slices.Sorted(maps.Keys(left))
	helpers := l.e.helpers.set.All()
	now := l.now
	used := map[string][]int{} // what is not zero
	for n, name := range names {
		for i, b := range left[name] {
			if b != 0 {
				used[name] = append(used[name], i)
			}
		}
		for i := 0; i < len(used[name]); i += 1 + len(used[name])/24 {
			seed([3]uint32{uint32(n), uint32(i), 0xff}, [3]uint32{uint32(n), uint32(i + 5), 0x01})
		}
	}
	seed()
	f.Fuzz(func(t *testing.T, changes []byte) {
		torn := keeptest.Left{}
		for name := range left {
			torn[name] = keeptest.Aligned(len(left[name]))
			copy(torn[name], left[name])
		}
		for ; len(changes) >= 6; changes = changes[6:] {
			name := names[int(changes[0])%len(names)]
			at := int(binary.BigEndian.Uint32(changes[1:]))
			if a := torn[name]; at < len(used[name]) {
				a[used[name][at]] ^= changes[5] // what has a meaning
			} else if len(a) > 0 {
				a[at%len(a)] ^= changes[5]
			}
		}
		im, err := Remains(torn.Array, torn.Cut)
		if err != nil {
			return
		}
		im.Helpers = helpers
		next := newLab(t, l.cfg)
		next.now = now
		did, err := next.e.Restore(im)
		if err != nil {
			return // more timeouts than a table can have
		}
		checkLeases(t, next.e)
		n := 0
		next.table.Dump(func(*conntrack.Flow) bool { n++; return true })
		if n != did.Flows {
			t.Errorf("%d flows are listed, %d restored", n, did.Flows)
		}
	})
}

// fillRich makes flows with and without a helper, an expectation of one, and a flow that
// has ended and whose port is kept.
func (l *lab) fillRich() {
	l.Helper()
	l.say("&10.0.0.5:6000\n")
	l.send("lan", udp("10.0.0.6:4000", "198.51.100.7:53"))
	l.send("lan", udp("10.0.0.6:4001", "198.51.100.8:53"))
	l.send("lan", udp("[2001:db8:1::5]:4000", "[2001:db8:77::7]:53"))
	l.ports["lan"].TakeFrames()
	l.ports["wan"].TakeFrames()
	if f, ok := flowFrom(l, 4001); !ok || l.table.Delete(f.Tuple[tuple.Original]) != nil {
		l.Fatal("there is no flow to end")
	}
}

// flowFrom returns the flow from a port.
func flowFrom(l *lab, port uint16) (found conntrack.Flow, ok bool) {
	l.table.Dump(func(f *conntrack.Flow) bool {
		if f.Tuple[tuple.Original].SrcPort == port {
			found, ok = *f, true
		}
		return !ok
	})
	return found, ok
}
