package selftest

import (
	"fmt"
	"net/netip"

	"example.com/culvert/control/api"
	"example.com/culvert/rules"
	"example.com/culvert/rules/config"
)

// Running returns the configuration of a running gateway with the interfaces that it
// serves, at the addresses that they have.
func Running(in api.Config, serving []api.Interface) (*config.Config, error) {
	c, err := config.Parse(in.File, []byte(in.Text))
	if err != nil {
		return nil, err
	}
	declared := c.Interfaces
	c.Interfaces = nil
	for _, s := range serving {
		if s.State == api.StateAbsent {
			continue
		}
		itf := declaredAs(declared, s.Name)
		itf.Name, itf.Area, itf.MTU, itf.AddressFrom = s.Name, s.Area, s.MTU, config.Static
		if itf.Addresses, err = parseAll(s.Addresses, netip.ParsePrefix); err != nil {
			return nil, fmt.Errorf("interface %s: %w", s.Name, err)
		}
		if itf.NextHops, err = parseAll(s.NextHops, netip.ParseAddr); err != nil {
			return nil, fmt.Errorf("interface %s: %w", s.Name, err)
		}
		c.Interfaces = append(c.Interfaces, itf)
	}
	return c, nil
}

// declaredAs returns what the configuration says about an interface: under its name, or a pattern.
func declaredAs(list []config.Interface, name string) config.Interface {
	var found config.Interface
	for _, i := range list {
		if i.Name == name {
			return i
		}
		if rules.MatchName(i.Name, name) {
			found = i
		}
	}
	return found // empty: it was added at run time
}

func parseAll[T any](words []string, parse func(string) (T, error)) ([]T, error) {
	var list []T
	for _, w := range words {
		v, err := parse(w)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}
