package vnet

import "testing"

func TestHairpinnedICMPIsTranslated(t *testing.T) {
	RunScript(t, "testdata/requirements/hairpinned-icmp.txt")
}

func TestOutsideHostsWithInsideAddressesAreReached(t *testing.T) {
	RunScript(t, "testdata/requirements/conflict.txt")
}
