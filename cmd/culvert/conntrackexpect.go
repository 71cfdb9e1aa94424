package main

import (
	"errors"

	"example.com/culvert/control/api"
)

// expectation returns what -I expect is about.
func (l *conntrackLine) expectation() (x api.Expectation, err error) {
	var sport, dport, maskSport *uint16
	if err := errors.Join(number(l, "tuple-port-src", &sport), number(l, "tuple-port-dst", &dport), number(l, "mask-port-src", &maskSport)); err != nil {
		return x, err
	}
	x.Master = l.tuple()
	x.Tuple = api.Tuple{Proto: x.Master.Proto, Src: l.address["tuple-src"].Addr(), Dst: l.address["tuple-dst"].Addr(), Sport: value(sport), Dport: value(dport)}
	x.Mask = api.Mask{Src: l.address["mask-src"].Addr(), Sport: value(maskSport)}
	if x.Timeout = float64(value(l.filter.Timeout)); x.Timeout == 0 {
		return x, errors.New("timeout 0: give at least a second")
	}
	return x, nil
}
