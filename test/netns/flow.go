package netns

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Flow is one line of `conntrack -L`, whoever printed it.
type Flow struct {
	Line       string // as printed
	Proto      string // "tcp", "udp", "icmp", "icmpv6", ...
	State      string // "ESTABLISHED"; "" for protocols without states
	Orig       FlowTuple
	Reply      FlowTuple
	Assured    bool
	Unreplied  bool
	Mark, Zone uint32
	Timeout    uint32 // seconds left
}

// FlowTuple is one direction of a Flow. Counters are zero unless accounting is
// printed, the ICMP fields unless it is ICMP.
type FlowTuple struct {
	Src, Dst       netip.AddrPort // port 0 for protocols without ports
	Type, Code     uint8
	ID             uint16
	Packets, Bytes uint64
}

// ParseFlow reads a line in the form of conntrack(8), -o extended included.
func ParseFlow(line string) (Flow, error) {
	f := Flow{Line: strings.TrimSpace(line)}
	fields := strings.Fields(line)
	if len(fields) > 2 && (fields[0] == "ipv4" || fields[0] == "ipv6") {
		fields = fields[2:] // -o extended: family name and number
	}
	if len(fields) < 4 {
		return f, fmt.Errorf("flow line %q: too short", line)
	}
	f.Proto = fields[0]
	dirs := 0
	var dir *FlowTuple
	for i, word := range fields[1:] {
		key, value, isPair := strings.Cut(word, "=")
		if key == "src" {
			if dirs++; dirs > 2 {
				return f, fmt.Errorf("flow line %q: three tuples", line)
			}
			dir = [...]*FlowTuple{&f.Orig, &f.Reply}[dirs-1]
		}
		var err error
		switch {
		case isPair:
			err = f.set(dir, key, value)
		case word == "[ASSURED]":
			f.Assured = true
		case word == "[UNREPLIED]":
			f.Unreplied = true
		case i == 1: // the protocol number is 0
			var n uint64
			n, err = strconv.ParseUint(word, 10, 32)
			f.Timeout = uint32(n)
		case i == 2:
			f.State = word
		}
		if err != nil {
			return f, fmt.Errorf("flow line %q: %s: %w", line, word, err)
		}
	}
	if dirs != 2 {
		return f, fmt.Errorf("flow line %q: %d tuples", line, dirs)
	}
	return f, nil
}

// set stores one key=value pair. Keys that have no field are left to Line.
func (f *Flow) set(dir *FlowTuple, key, value string) error {
	switch key {
	case "mark":
		return parseUint(value, &f.Mark)
	case "zone":
		return parseUint(value, &f.Zone)
	}
	if dir == nil {
		return nil
	}
	switch key {
	case "src", "dst":
		a, err := netip.ParseAddr(value)
		if err != nil {
			return err
		}
		p := &dir.Src
		if key == "dst" {
			p = &dir.Dst
		}
		*p = netip.AddrPortFrom(a, p.Port())
	case "sport", "dport":
		var port uint16
		if err := parseUint(value, &port); err != nil {
			return err
		}
		p := &dir.Src
		if key == "dport" {
			p = &dir.Dst
		}
		*p = netip.AddrPortFrom(p.Addr(), port)
	case "type":
		return parseUint(value, &dir.Type)
	case "code":
		return parseUint(value, &dir.Code)
	case "id":
		return parseUint(value, &dir.ID)
	case "packets":
		return parseUint(value, &dir.Packets)
	case "bytes":
		return parseUint(value, &dir.Bytes)
	}
	return nil
}

func parseUint[T uint8 | uint16 | uint32 | uint64](s string, to *T) error {
	var zero T
	bits := 64
	switch any(zero).(type) {
	case uint8:
		bits = 8
	case uint16:
		bits = 16
	case uint32:
		bits = 32
	}
	n, err := strconv.ParseUint(s, 10, bits)
	*to = T(n)
	return err
}
