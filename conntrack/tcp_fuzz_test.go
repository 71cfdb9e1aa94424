package conntrack

import (
	"encoding/binary"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// FuzzTCP takes any segments through the tracker. Whatever they are: the state
// stays a state, packing and unpacking loses nothing, what is not accepted
// does not move the state, and the table's verdict is never overruled.
func FuzzTCP(f *testing.F) {
	segment := func(d byte, flags uint8, seq, ack uint32) []byte {
		b := []byte{d, flags}
		b = binary.BigEndian.AppendUint32(b, seq)
		b = binary.BigEndian.AppendUint32(b, ack)
		return append(b, 3, 0xe8, 0, 10, 0)
	}
	add := func(segments ...[]byte) {
		var all []byte
		for _, s := range segments {
			all = append(all, s...)
		}
		f.Add(all)
	}
	shake := [][]byte{segment(0, SYN, 99, 0), segment(1, SYN|ACK, 199, 100), segment(0, ACK, 100, 200)}
	add(append(shake, segment(0, FIN|ACK, 110, 200), segment(1, FIN|ACK, 200, 121), segment(0, ACK, 121, 201), segment(0, SYN, 900, 0))...)
	add(append(shake, segment(0, SYN, 5000, 0), segment(1, SYN|ACK, 9000, 5001))...) // the host restarted
	add(append(shake, segment(1, RST, 0, 0), segment(1, RST, 210, 0))...)
	add(segment(0, SYN, 1, 0), segment(1, SYN, 1, 0), segment(0, SYN|ACK, 1, 2))
	add(segment(0, ACK, 1, 0), segment(1, RST, 1, 0))

	limits := tcpLimits{maxRetrans: maxRetrans}
	f.Fuzz(func(t *testing.T, data []byte) {
		var e Entry
		status := Confirmed
		const size = 15
		for ; len(data) >= size; data = data[size:] {
			d := tuple.Direction(data[0] & 1)
			s := Segment{
				Flags: data[1], Seq: binary.BigEndian.Uint32(data[2:]), Ack: binary.BigEndian.Uint32(data[6:]),
				Window: binary.BigEndian.Uint16(data[10:]), Payload: uint32(binary.BigEndian.Uint16(data[12:])),
				Options: data[14] & 7, WindowScale: data[14] >> 3, SACK: uint32(data[14]) << 8,
			}
			var c, again tcpConn
			c.load(&e, e.word)
			steady := steadily(e, d, &s, status, &limits)
			old := c.state
			cell := tcpNext[d][classify(s.Flags)][old]
			res := c.advance(d, &s, status, &limits)
			switch {
			case c.state >= numTCPStates:
				t.Fatalf("state %d", c.state)
			case cell == invalid && !res.verdict.Invalid():
				t.Fatalf("%v %#x in %v: %v", d, s.Flags, old, res.verdict)
			case res.verdict != Accept && c.state != old && old != None:
				t.Fatalf("%v moves %v to %v", res.verdict, old, c.state)
			case c.retrans > maxRetrans || c.scale[0] > 14 || c.scale[1] > 14:
				t.Fatalf("retrans %d scale %v", c.retrans, c.scale)
			}
			e.word = c.store(&e)
			steady.compare(t, &e, res)
			if again.load(&e, e.word); again != c {
				t.Fatalf("packed %+v, unpacked %+v", c, again)
			}
			if e.word&wordLock != 0 {
				t.Fatal("state touches the lock")
			}
			if res.verdict == Restart || res.idle == idleEnd && res.verdict == Accept {
				return
			}
			if d == tuple.Reply && res.verdict == Accept {
				status |= SeenReply
			}
			if res.assured {
				status |= Assured
			}
		}
	})
}
