package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/pflag"

	"example.com/culvert/control/api"
)

// expectOptions are the flags of culvert conntrack that name an expectation and
// its master.
type expectOptions struct {
	timeout             uint32
	master, tuple, mask endpoints
}

// endpoints are two addresses with their ports.
type endpoints struct {
	src, dst     string
	sport, dport uint16
}

func (o *expectOptions) add(f *pflag.FlagSet) {
	f.StringVarP(&o.master.src, "src", "s", "", "source `ADDRESS` of the master (-I) or the expectation (-D)")
	f.StringVarP(&o.master.dst, "dst", "d", "", "destination `ADDRESS` of the master (-I) or the expectation (-D)")
	f.Uint16Var(&o.master.sport, "sport", 0, "source `PORT` of the master (-I) or the expectation (-D)")
	f.Uint16Var(&o.master.dport, "dport", 0, "destination `PORT` of the master (-I) or the expectation (-D)")
	f.Uint32VarP(&o.timeout, "timeout", "t", 0, "how many `SECONDS` a new expectation waits")
	f.StringVar(&o.tuple.src, "tuple-src", "", "source `ADDRESS` that is expected")
	f.StringVar(&o.tuple.dst, "tuple-dst", "", "destination `ADDRESS` that is expected")
	f.Uint16Var(&o.tuple.sport, "tuple-port-src", 0, "source `PORT` that is expected")
	f.Uint16Var(&o.tuple.dport, "tuple-port-dst", 0, "destination `PORT` that is expected")
	f.StringVar(&o.mask.src, "mask-src", "", "`MASK` of the source address")
	f.StringVar(&o.mask.dst, "mask-dst", "", "`MASK` of the destination address, of which every bit counts anyway")
	f.Uint16Var(&o.mask.sport, "mask-port-src", 0, "`MASK` of the source port")
	f.Uint16Var(&o.mask.dport, "mask-port-dst", 0, "`MASK` of the destination port, of which every bit counts anyway")
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if short, ok := optionAliases[name]; ok {
			name = short
		}
		return pflag.NormalizedName(name)
	})
}

// optionAliases are the longer names that conntrack(8) has for some options.
var optionAliases = map[string]string{
	"orig-src": "src", "orig-dst": "dst", "orig-port-src": "sport", "orig-port-dst": "dport",
}

// expectation returns what -I and -D are about: Master is the tuple of -s and -d.
// It is zero for other commands.
func (o *conntrackOptions) expectation() (x api.Expectation, err error) {
	if !o.create && !o.remove {
		return x, nil
	}
	if x.Master, err = o.master.tuple(o.proto); err != nil || o.remove {
		return x, err
	}
	if x.Tuple, err = o.tuple.tuple(o.proto); err != nil {
		return x, err
	}
	mask, err := o.mask.tuple(o.proto)
	if err != nil {
		return x, err
	}
	for _, a := range []netip.Addr{x.Tuple.Src, mask.Src} {
		if a.Is4() != x.Master.Src.Is4() {
			return x, fmt.Errorf("%v is of another family than %v", a, x.Master.Src)
		}
	}
	if o.timeout == 0 {
		return x, fmt.Errorf("timeout 0: give at least a second")
	}
	x.Mask = api.Mask{Src: mask.Src, Sport: mask.Sport}
	x.Timeout = float64(o.timeout)
	return x, nil
}

// tuple returns what the endpoints are between.
func (e *endpoints) tuple(proto string) (t api.Tuple, err error) {
	if t.Src, err = address(e.src); err != nil {
		return t, err
	}
	if t.Dst, err = address(e.dst); err != nil {
		return t, err
	}
	if t.Src.Is4() != t.Dst.Is4() {
		return t, fmt.Errorf("%v is of another family than %v", t.Dst, t.Src)
	}
	t.Proto, t.Sport, t.Dport = proto, e.sport, e.dport
	return t, nil
}

func address(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return a, fmt.Errorf("invalid IP address %q", s)
	}
	return a.Unmap(), nil
}
