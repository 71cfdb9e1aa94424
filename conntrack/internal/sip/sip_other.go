//go:build !amd64

package sip

const lanes = 0

func sumLanes(*uint64, *[5]uint64, int, *Key) { panic("sip: no lanes") }
