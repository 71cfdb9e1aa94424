package nat

import (
	"errors"
	"testing"
)

func TestPlanIsItsOwnInverse(t *testing.T) {
	inside := AddrRange{addr("100.64.0.0"), addr("100.64.3.255")}
	pool := []AddrRange{{addr("203.0.113.0"), addr("203.0.113.3")}, {addr("203.0.113.8"), addr("203.0.113.8")}}
	for _, size := range []uint32{0, 1, 100, 256} {
		p, err := NewPlan(inside, pool, size)
		if err != nil {
			t.Fatal(err)
		}
		owner := map[offer]bool{}
		for i := range inside.Size() {
			client := inside.at(i)
			a, ports, ok := p.Block(client)
			if !ok || uint32(ports.Size()) != p.Size || ports.First < 1024 {
				t.Fatalf("%v has %v %v %v, want %d ports", client, a, ports, ok, p.Size)
			}
			for port := int(ports.First); port <= int(ports.Last); port++ {
				o := offer{a, uint16(port)}
				if owner[o] {
					t.Fatalf("%v port %d is of two", a, port)
				}
				owner[o] = true
				if who, ok := p.Client(a, uint16(port)); !ok || who != client {
					t.Fatalf("%v port %d is of %v %v, want %v", a, port, who, ok, client)
				}
			}
		}
	}
}

func TestPlanRefusals(t *testing.T) {
	one := []AddrRange{{addr("203.0.113.1"), addr("203.0.113.1")}}
	wide := AddrRange{addr("10.0.0.0"), addr("10.255.255.255")}
	narrow := AddrRange{addr("10.0.0.0"), addr("10.0.0.255")}
	if _, err := NewPlan(wide, one, 0); !errors.Is(err, ErrPlanTooSmall) {
		t.Errorf("16 M clients behind one address: %v", err)
	}
	if _, err := NewPlan(narrow, one, 253); !errors.Is(err, ErrPlanTooSmall) {
		t.Errorf("256 clients with 253 ports each: %v", err)
	}
	if p, err := NewPlan(narrow, one, 0); err != nil || p.Size != 252 {
		t.Errorf("256 clients: %+v %v, want 252 ports each", p, err)
	}
	p, _ := NewPlan(narrow, one, 0)
	if _, _, ok := p.Block(addr("10.0.1.0")); ok {
		t.Error("a stranger has a block")
	}
	for _, port := range []uint16{0, 1023, 65535 - 64512%252} {
		if _, ok := p.Client(one[0].First, port); ok != (port > 1023) {
			t.Errorf("port %d: owner %v", port, ok)
		}
	}
	if _, ok := p.Client(addr("203.0.113.2"), 5000); ok {
		t.Error("an address that is not in the pool has an owner")
	}
	if _, err := NewPlan(AddrRange{addr("fd00::"), addr("fd00::ff")}, one, 0); !errors.Is(err, ErrPlanMixed) {
		t.Errorf("other family: %v", err)
	}
}
