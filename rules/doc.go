// Package rules is the immutable, compiled form of a ruleset and the walks that
// packets take through it.
//
// # Theory of operation
//
// A [Spec] is what the user wrote: four ordered lists that name interfaces and
// areas. [Compile] binds it to the interfaces that exist now ([Binding]) and
// gives a [Program], which never changes and is swapped as a whole. In each list
// the first rule with a terminal action ends the walk. Beside its action, or instead
// of one, a rule marks, counts, logs, and gives flows a helper or timeouts; a rule
// that has nothing else goes on to the next, and what its action is called (mark,
// count, log, helper, timeout) makes no difference. Of several rules that have
// timeouts or a helper, the last one on the flow's way wins, as in nftables.
//
//	Pre      before the flow is looked up: mark, zone, notrack
//	Dnat     first packets: new destination, or redirect to the gateway itself
//	Filter   what may pass; when no rule decides, the default policy (policy.go)
//	Snat     first packets: new source, unless the dnat rule gave one, too (Twice)
//
// A rule with a map applies to what its map has something for, so the walk goes on
// when it has nothing. A dnat rule for packets from outside may hold for inside
// hosts that use the outside address (Hairpin): the engine walks the list again
// for these as if they came in from there; Program.TurnsRound says whether any
// rule cares.
//
// The caller fills a [Key] as it learns more about the packet, and keeps one
// [Decision] for all four walks. Walks do not allocate or fail; only limits for each
// source lock, for some comparisons.
//
// # Marks
//
// A packet has the mark of its flow when it comes, as after "meta mark set ct mark"
// of nftables, and rules match that. set_mark changes it and the flow's (meta mark
// and ct mark at once); set_packet_mark changes the packet's alone, for the rules and
// routes that it still meets. Later packets change their flow's mark, too.
//
// # What rules remember
//
// A Program is immutable; what packets leave behind is in a [Ledger] beside it, with
// a [Page] for each worker: hits with bytes, named counters, lines to log, and which
// windows of time are open, looked at once a second and not for each packet. Limits
// are shared by the workers, since parts of a rate for each would refuse a client
// whose flows meet on one: a token bucket is one word, changed by compare-and-swap;
// buckets and flows of sources are in tables of fixed size, and what finds no place
// there is beyond the limit. A reload makes a new Ledger that goes on with the counts,
// limits and logs of the rules that stay. Without a Page, or to Ask only, nothing is
// written down and no limit is reached.
//
// # Which packets meet the filter
//
// First packets of flows (state new or related), and all packets that are
// invalid or untracked. For these, all rules count, with one exception: only a
// rule that names the state lets invalid packets pass. They are no part of a
// flow, so they are not translated; what would have to be stays here even then,
// and a reject answers them with ICMP, never with a RST (the engine sees to
// both). Dropped is what they are by default, so Program.Judges tells whether
// any rule cares.
//
// Rules decide about flows, not packets, as far as they can: a drop, reject or
// mark rule that looks only at what is the same for all packets of a flow does
// not touch packets that are established already. Without such a rule, "drop
// everything from wan" would drop the answers to what lan asked for. To end
// established flows a rule must say state = "established", or name a direction.
//
// A rule that counts or logs, and does not drop or reject, sees all packets.
//
// Rules that look at state, mark, TTL, DSCP, length or time, or have a rate, may treat
// later packets otherwise. (A limit of flows is about new ones only.)
// Decision.Scope says for each packet whether the next one of the same direction
// must meet the filter again; Program.Follow says whether any ever must:
//
//	new packet:          verdict and scope for the original direction
//	                     (Settles: none of its later packets must, after all)
//	first answer:        if Follow() == PerPacket: Filter with State Established
//	                     gives verdict and scope for the reply direction
//	established packet:  Filter only if the last scope of its direction was
//	                     PerPacket, or if the program has been replaced
//
// # Identity
//
// A rule's ID is a hash of its list and normal form, so it stays the same over
// reloads, moves and edits of comments and names. Rule.Index is dense within one
// Program and indexes hit counters. What a named set holds is no part of its rules'
// identity: a rule stays the same when a blocklist is read anew.
//
// # Matching
//
// A matcher has a bit for each field that it looks at, and compares cheap fields
// first; limits come last, because to ask them takes from them. Each list has an
// index (index.go) that shows the few rules whose addresses, ports, protocols,
// interfaces and areas a packet may have, in the order of the list; matchers
// decide about those. So the walk through a list takes a time that grows with the
// rules that come into question and hardly with the length of the list: with
// 10,000 rules that differ by prefixes, ports and sets a first packet takes as
// long as with 10 (BenchmarkManyRules: 140 ns; compiling them 0.1 s, four
// megabytes of index at most). Sets count by their ranges, large ones roughly.
// Rules that only a negated condition or a field of the single packet sets apart
// are looked at one by one.
package rules
