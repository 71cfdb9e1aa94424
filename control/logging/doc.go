// Package logging is the log of the gateway's own process: structured (log/slog), as
// text or JSON, with levels for all of it or for one component that change while it
// runs, and without floods.
//
// # Theory of operation
//
// A Log has one writer, a level for each Component, and a form; all of them can change
// at any time, for loggers that exist too. A logger says what it belongs to by the
// attribute "component"; one without belongs to the gateway. Asking whether a record
// is wanted is one atomic load.
//
// The same message of the same component may be written so many times in ten seconds
// (Settings.Repeats); what comes then is counted, and the number told in one line when
// the ten seconds are over. What differs only in attributes is the same message. Rules
// with a log and blocks of ports are records, not messages: they are never held back
// here, since rules bound their own lines. Messages are told apart up to a number;
// those beyond it share one count.
//
// Whoever logs waits for nobody who reads, if the log is a spooled one (spool.go): lines
// wait in memory for one goroutine that writes them. Those beyond its bound are lost and
// counted, and a line behind the others says how many.
//
// It does not rotate or send anything: that is the business of whoever reads standard
// error. What flows do is logged by package flowlog.
package logging
