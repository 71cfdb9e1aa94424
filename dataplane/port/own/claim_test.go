//go:build netns

package own

import (
	"errors"
	"testing"
)

func TestInterfaceOfALivingProcessIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		exit OnExit
	}{
		{"on_exit release", Release},
		{"on_exit hold", Hold},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, pins := newWire(t), ""
			if tt.exit == Hold {
				pins = pinDir(t)
			}
			v := w.victim(t, tt.exit, pins)
			cfg := Config{Ifindex: w.gate.Index(t), Netns: w.gate.Netns, OnExit: tt.exit, PinDir: pins}
			for range 3 { // a refusal leaves no trace
				if _, err := Take(cfg); !errors.Is(err, ErrOwned) {
					t.Fatalf("a second process takes the interface: %v, want %v", err, ErrOwned)
				}
			}
			v.Process.Kill()
			v.Wait()
			w.take(t, cfg)
		})
	}
}

func TestOwnerMayBeReplacedWithinAProcess(t *testing.T) {
	w := newWire(t)
	old := w.take(t, Config{})
	for range 3 {
		o := w.take(t, Config{})
		if err := old.Close(); err != nil {
			t.Fatal(err)
		}
		old = o
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	w.victim(t, Release, "") // nothing is left of the claims
}
