package conntrack

import (
	"math/rand/v2"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// TestIndexUpToItsLastPlace fills one small shard until it refuses, so that
// searches go over several buckets, and empties it in random order.
func TestIndexUpToItsLastPlace(t *testing.T) {
	x, err := newIndex(hashKey{1, 2}, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = freeMemory(x.mem) }()
	room := int(x.perShard) * places
	entries := make([]Entry, room+2)
	hash := func(slot int) uint64 { return x.key.tuple(&entries[slot].half[tuple.Reply].tuple) }
	id := func(slot int) uint32 { return uint32(slot)<<1 | uint32(tuple.Reply) }

	for slot := 1; slot <= room; slot++ {
		entries[slot].half[tuple.Reply].tuple = flowTuple(tuple.UDP, slot)
		if !x.insertLocked(hash(slot), id(slot)) {
			t.Fatalf("no room for value %d of %d", slot, room)
		}
	}
	entries[room+1].half[tuple.Reply].tuple = flowTuple(tuple.UDP, room+1)
	if x.insertLocked(hash(room+1), id(room+1)) {
		t.Fatal("room for more values than there are places")
	}
	left := rand.New(rand.NewPCG(1, 2)).Perm(room)
	for n, slot := range left {
		x.removeLocked(hash(slot+1), id(slot+1))
		for i, other := range left {
			k := &entries[other+1].half[tuple.Reply].tuple
			want := id(other + 1)
			if i <= n {
				want = 0
			}
			if got := x.find(entries, k, hash(other+1)); got != want {
				t.Fatalf("after %d removals: find(%v) = %d, want %d", n+1, k, got, want)
			}
		}
	}
	for i := range x.buckets {
		if x.buckets[i].tags != ([3]uint64{}) {
			t.Errorf("bucket %d of an empty index has tags and overflow %x", i, x.buckets[i].tags)
		}
	}
}

func TestBucketMatchesEveryPlace(t *testing.T) {
	for place := range places {
		for _, tag := range []uint64{1, 0x7fff, 0x8000, 0xffff} {
			var b bucket
			b.addOverflow(1) // must not be taken for a tag
			b.set(place, tag, 77)
			if got := b.candidate(tag); got != 77 {
				t.Errorf("tag %#x in place %d: first = %d, want 77", tag, place, got)
			}
			if got := b.candidate(tag ^ 0x100); got != 0 {
				t.Errorf("tag %#x in place %d: first of another tag = %d, want 0", tag, place, got)
			}
			if b.overflow() != 1 || b.tag(place) != tag || b.place(77) != place {
				t.Errorf("overflow %d tag %#x place %d", b.overflow(), b.tag(place), b.place(77))
			}
			b.clear(place)
			if b.candidate(tag) != 0 {
				t.Errorf("tag %#x in place %d: found after it was cleared", tag, place)
			}
		}
	}
}

func TestHash(t *testing.T) {
	key := newHashKey([16]byte{1})
	base := flowTuple(tuple.UDP, 1)
	seen := map[uint64]string{key.tuple(&base): "base"}
	change := map[string]func(*tuple.Tuple){
		"source":             func(k *tuple.Tuple) { k.Src[15]++ },
		"first source byte":  func(k *tuple.Tuple) { k.Src[0]++ },
		"destination":        func(k *tuple.Tuple) { k.Dst[7]++ },
		"source port":        func(k *tuple.Tuple) { k.SrcPort++ },
		"destination port":   func(k *tuple.Tuple) { k.DstPort++ },
		"protocol":           func(k *tuple.Tuple) { k.Proto++ },
		"family":             func(k *tuple.Tuple) { k.Family = tuple.IPv6 },
		"zone":               func(k *tuple.Tuple) { k.Zone++ },
		"swapped direction":  func(k *tuple.Tuple) { *k, _ = k.Inverse() },
		"another protocol's": func(k *tuple.Tuple) { k.Proto = tuple.TCP },
	}
	for name, f := range change {
		k := base
		f(&k)
		h := key.tuple(&k)
		if other, dup := seen[h]; dup {
			t.Errorf("%s hashes like %s", name, other)
		}
		seen[h] = name
		if same(&k, &base) {
			t.Errorf("%s: a changed tuple is the same", name)
		}
	}
	if other := newHashKey([16]byte{2}); other.tuple(&base) == key.tuple(&base) {
		t.Error("the key does not matter")
	}
	if one, two := newHashKey([16]byte{}), newHashKey([16]byte{}); one == two {
		t.Error("two random keys are equal")
	}
}

// TestHashSpreads: flows of one host with ascending ports fill the shards of a
// table evenly.
func TestHashSpreads(t *testing.T) {
	const flows = 1 << 16
	x, err := newIndex(newHashKey([16]byte{9}), flows)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = freeMemory(x.mem) }()
	count := make([]int, len(x.buckets))
	for i := range flows {
		k := flowTuple(tuple.UDP, i)
		h := x.key.tuple(&k)
		count[uint64(x.shardOf(h))*x.perShard+x.homeOf(h)]++
	}
	mean := float64(flows) / float64(len(count))
	sum := 0.0
	for _, n := range count {
		sum += (float64(n) - mean) * (float64(n) - mean) / mean
	}
	if ratio := sum / float64(len(count)); ratio < 0.9 || ratio > 1.1 { // chi square by its degrees of freedom
		t.Errorf("chi square %.3f times its expectation", ratio)
	}
}
