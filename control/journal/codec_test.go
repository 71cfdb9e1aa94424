package journal

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// fill sets every field below v to something.
func fill(t testing.TB, v reflect.Value, rng *rand.Rand) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(0, rng.Int64N(1<<61))))
		return
	case tuple.Addr:
		a := tuple.AddrFrom4([4]byte{byte(rng.Uint32()), 1, 2, 3})
		if rng.IntN(2) == 0 {
			a[0] = 0x20
		}
		v.Set(reflect.ValueOf(a))
		return
	case conntrack.Cause:
		v.SetUint(uint64(rng.IntN(conntrack.NumCauses)))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), rng)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i), rng)
		}
	case reflect.String:
		v.SetString([]string{"", "ftp", "sip"}[rng.IntN(3)])
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int64:
		v.SetInt(rng.Int64N(1 << 50))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(rng.Uint64() & (1<<v.Type().Bits() - 1) >> rng.IntN(8))
	default:
		t.Fatalf("%v: how is this recorded?", v.Type())
	}
}

// randomRecord returns a record as the pump makes them, with every field set.
func randomRecord(t testing.TB, rng *rand.Rand) conntrack.Record {
	r := conntrack.Record{Kind: conntrack.Kind(rng.IntN(int(conntrack.NumKinds)))}
	if rng.IntN(20) == 0 {
		r.Kind = 0
		for r.Lost.Sum() == 0 {
			r.Lost[rng.IntN(len(r.Lost))] = rng.Uint64N(5)
			r.Lost[rng.IntN(len(r.Lost))] = rng.Uint64N(300)
		}
		return r
	}
	r.Mark = conntrack.Mark{Note: rng.Uint64() >> 16, Slot: rng.Uint32(), Gen: rng.Uint32()}
	if r.Kind >= conntrack.ExpectNew {
		fill(t, reflect.ValueOf(&r.Expect).Elem(), rng)
		r.Expect.Type, r.Mark.Gen = r.Kind.Type(), 0
		return r
	}
	fill(t, reflect.ValueOf(&r.Event).Elem(), rng)
	r.Event.Type, r.Event.Seq = r.Kind.Type(), 0
	return r
}

// TestEveryFieldIsRecorded fails when an event gets a field that the journal does not
// know.
func TestEveryFieldIsRecorded(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		want := randomRecord(t, rng)
		var got conntrack.Record
		b := appendRecord(nil, &want)
		d := decoder{b: b}
		if err := d.record(&got); err != nil {
			t.Fatalf("%v of %+v", err, want)
		}
		if got != want {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
	}
}

func FuzzRecord(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		r := randomRecord(f, rng)
		f.Add(appendRecord(nil, &r))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again conntrack.Record
		d := decoder{b: b}
		if d.record(&r) != nil {
			return
		}
		d = decoder{b: appendRecord(nil, &r)}
		if err := d.record(&again); err != nil || again != r {
			t.Errorf("%v: %+v became %+v", err, r, again)
		}
	})
}

func FuzzFrame(f *testing.F) {
	x := frame{instance: 7, first: conntrack.Counts{1, 2}, last: conntrack.Counts{1, 3}, data: []byte("records")}
	b := x.append(nil)
	f.Add(b, 0)
	f.Add(append([]byte("cvevent"), b...), 3)
	f.Add(b[:len(b)-1], 0)
	f.Fuzz(func(t *testing.T, b []byte, _ int) {
		for {
			var x frame
			used, skipped := nextFrame(b, &x)
			if used > len(b) || skipped > len(b) || used > 0 && used <= skipped {
				t.Fatalf("used %d and skipped %d of %d", used, skipped, len(b))
			}
			if used == 0 {
				return
			}
			b = b[used:]
		}
	})
}

func TestCursorsSurviveTheirText(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		want := Cursor{Instance: rng.Uint64()}
		for k := range want.Counts {
			want.Counts[k] = rng.Uint64() >> (16 + rng.IntN(48))
		}
		if got, err := ParseCursor(want.String()); err != nil || got != want {
			t.Fatalf("%v became %v, %v", want, got, err)
		}
	}
	for _, text := range []string{"", "x", "0123456789abcdef-1-2-3-4", "0123456789abcdef-1-2-3-4-5-6", "0123456789ABCDEF-0-0-0-0-0",
		"0123456789abcdef-01-0-0-0-0", "0123456789abcdef--1-0-0-0-0", "0123456789abcdef-zzzzzzzzzzzzzz-0-0-0-0"} {
		if _, err := ParseCursor(text); err == nil {
			t.Errorf("%q is a cursor", text)
		}
	}
}
