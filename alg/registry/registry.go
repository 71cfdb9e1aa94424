// Package registry lists the helpers that a gateway has. A new one is a line here.
package registry

import (
	"example.com/culvert/alg"
	"example.com/culvert/alg/broadcast"
	"example.com/culvert/alg/ftp"
	"example.com/culvert/alg/irc"
	"example.com/culvert/alg/pptp"
	"example.com/culvert/alg/sip"
	"example.com/culvert/alg/snmp"
	"example.com/culvert/alg/tftp"
)

// Helpers are all helpers, in the order of their names.
var Helpers = []alg.Helper{
	ftp.Helper{},
	irc.Helper{},
	broadcast.NetBIOS,
	pptp.Helper{},
	sip.Helper{},
	broadcast.SNMP,
	snmp.Helper{},
	tftp.Helper{},
}

// New returns a set of all helpers.
func New() *alg.Set {
	s, err := alg.NewSet(Helpers...)
	if err != nil {
		panic(err) // a test makes one
	}
	return s
}
