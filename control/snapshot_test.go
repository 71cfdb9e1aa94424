package control

import (
	"bytes"
	"errors"
	"testing"

	"example.com/culvert/conntrack"
	"example.com/culvert/control/api"
	"example.com/culvert/control/snapshot"
)

// saved returns a snapshot of a gateway.
func saved(t *testing.T, b *bench) []byte {
	t.Helper()
	var file bytes.Buffer
	if err := b.SaveSnapshot(&file); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func flowsOf(b *bench) (all []conntrack.Flow) {
	b.Table().Dump(func(f *conntrack.Flow) bool {
		all = append(all, *f)
		return true
	})
	return all
}

func TestAnotherGatewayGoesOnFromASnapshot(t *testing.T) {
	one := start(t)
	one.send(t, 40000)
	one.received(t)
	one.send(t, 40001)
	one.received(t)
	file := saved(t, one)

	two := start(t)
	result, err := two.RestoreSnapshot(file)
	if want := (api.RestoreResult{Flows: 2}); err != nil || result != want {
		t.Fatalf("restored %+v, %v, want %+v", result, err, want)
	}
	was, is := flowsOf(one), flowsOf(two)
	for i := range was {
		if is[i].Tuple != was[i].Tuple || is[i].Rule != was[i].Rule || is[i].Packets != was[i].Packets || is[i].Status != was[i].Status {
			t.Errorf("the flow is %+v, was %+v", is[i], was[i])
		}
	}
	again, err := two.RestoreSnapshot(file)
	if want := (api.RestoreResult{Taken: 2}); err != nil || again != want {
		t.Errorf("restored a second time: %+v, %v, want %+v", again, err, want)
	}
	for _, err := range two.Table().Check(two.Table().Now()) {
		t.Error(err)
	}
}

func TestDamagedSnapshotIsRefusedWhole(t *testing.T) {
	one := start(t)
	one.send(t, 40000)
	one.received(t)
	file := saved(t, one)
	two := start(t)
	refused := func(what string, at int, b []byte, want error) {
		t.Helper()
		if _, err := two.RestoreSnapshot(b); !errors.Is(err, api.ErrRefused) || !errors.Is(err, want) {
			t.Errorf("%s %d: %v, want %v", what, at, err, want)
		}
	}
	for n := range file {
		flipped := bytes.Clone(file)
		flipped[n] ^= 0x10
		want := snapshot.ErrDamaged
		switch {
		case n < 14:
			want = snapshot.ErrFormat
		case n < 16:
			want = snapshot.ErrVersion
		}
		refused("with a bit flipped in byte", n, flipped, want)
		if n >= 20 {
			refused("cut off behind byte", n, file[:n], snapshot.ErrDamaged)
		}
	}
	refused("with something behind it", len(file), append(bytes.Clone(file), 0), snapshot.ErrDamaged)
	refused("empty", 0, nil, snapshot.ErrFormat)
	if n := two.Table().Len(); n != 0 {
		t.Errorf("%d flows of refused snapshots are there", n)
	}
}

func TestGatewayThatIsNotUpHasNoSnapshot(t *testing.T) {
	b := newBench(t, masquerading, Options{}, "lan0", "wan0")
	if err := b.SaveSnapshot(&bytes.Buffer{}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("save: %v", err)
	}
	if _, err := b.RestoreSnapshot(nil); !errors.Is(err, ErrNotRunning) {
		t.Errorf("restore: %v", err)
	}
}
