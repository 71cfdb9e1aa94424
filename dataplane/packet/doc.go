// Package packet is one frame: what it says and how to change it.
package packet
