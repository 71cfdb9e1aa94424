// Package ctfmt writes flows the way conntrack(8) of conntrack-tools 1.4.7 does.
package ctfmt

import "example.com/culvert/conntrack"

// Options are the output options of conntrack(8).
type Options struct {
	Extended   bool // -o extended: the layer 3 columns
	ID         bool // -o id
	KTimestamp bool // -o ktimestamp: start and stop
	Timestamp  bool // -o timestamp: the time of an event
	Labels     bool // -o labels
	Accounting bool // packets= and bytes= (nf_conntrack_acct)
}

// AppendList appends the line of f as -L prints it, without a newline.
func AppendList(b []byte, f *conntrack.Flow, o Options) []byte { return b }

// AppendEvent appends the line of e as -E prints it, without a newline.
func AppendEvent(b []byte, e *conntrack.Event, o Options) []byte { return b }
