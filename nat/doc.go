// Package nat decides what a flow is translated to. It is tuple arithmetic: it
// sees no packet, keeps no state (package ports does), reads no clock, and takes randomness as an
// argument, so the same seed always gives the same answer.
//
// # Theory of operation
//
// A flow's first packet meets two translations. [Destination.Apply] gives it a
// new destination before it is routed; there is one answer and it can not be
// refused. [Source.Search] then names, one by one and best first, the sources
// that it could leave with. Whether a candidate is free is not known here: the
// caller turns it into the reply tuple (tuple.Inverse) and tries to claim that
// in the connection table; when it is taken, it asks the Search for the next.
// [NullSearch] is for flows that no rule translates: they keep their source
// unless two of them would answer to the same reply tuple.
//
//	s := source.Search(t, egressAddr, rnd)
//	for cand, why, ok := s.Next(); ok; cand, why, ok = s.Next() {
//		reply, _ := cand.Inverse()
//		if table.Claim(t, reply) {
//			return why
//		}
//	}
//	// every port of every address is taken
//
// # Order of the candidates
//
// For one address:
//
//  1. the port that the packet has, if the rule allows it (not with Random);
//  2. ports of the same class and parity (profile rfc, RFC 4787 REQ-3a, REQ-4);
//  3. ports of the same class;
//  4. what the rule allows beside that.
//
// Each group starts at a random port (RFC 6056) and goes up linearly, around the
// end. No port is offered twice for one address, and all that a rule allows are
// offered before Next reports false: the last free port is found, and a refusal
// means exhaustion. A pool goes on with its next address then; the first one is
// chosen by a hash of source and destination, or of the source alone
// ([Persistent], RFC 4787 REQ-2), so that a client sees the same address again.
//
// Without a port range in the rule the classes are netfilter's: a source port
// below 512 stays in 1-511, one below 1024 in 600-1023, all others in
// 1024-65535. The low classes give way to 1024-65535 before a flow is refused
// (netfilter drops it); the high one never takes a low port, so one address
// carries 64,512 flows to one destination. Profile rfc has two classes, 1-1023
// and 1024-65535. ICMP identifiers have no class. A range in a rule counts for
// ICMP identifiers too, as in netfilter, so that gateways that share an address
// by ports can share it for ping.
//
// Protocols without ports (and GRE without call ids) have one candidate for each
// address.
//
// A caller that knows ports to be taken has the search pass over them
// ([Search.Avoid], [PortSet]), so that the last free one is offered at once. Which
// ports are whose is the business of package ports; [Source] only carries what a
// rule says about it. With a [Plan] every inside address has its own ports by
// arithmetic.
//
// # Destination
//
// A destination rule has an address, a range or a pool (one is chosen by hash, as
// above), none (the port alone changes), or redirects to the gateway itself. A
// port range keeps a port that lies in it and else takes its first, or a random
// one, as netfilter does; with Shift the distance to the first port of the
// matched range is kept.
//
// A [Balance] spreads flows over hosts with ports and weights of their own. By
// client and by flow the host is found by rendezvous hashing, so that one that is
// taken out moves its own clients only; who takes turns is told which one it is.
//
// # Prefixes and maps
//
// Netmap puts one prefix in place of another and keeps the bits behind it
// ([KeepBits]); a source translated so has one address and the ports as above.
// [Neutral] is the prefix translation of RFC 6296: the bits behind the prefix take
// up the difference, so that no transport checksum changes, and ports never move.
// An address of all ones has no other form there: its flow has no destination, or
// no candidate.
//
// A [Map] has a translation for each of many addresses, ports or both: For returns
// the one for a flow. Each entry is a whole Source or Destination, so nothing else
// needs to know of maps.
//
// # Flows that belong to another one
//
// A flow that was announced (FTP's data connection) is translated as the flow
// that announced it, its master: [Inherit]. It reaches whom the master's packets
// in the same direction reach, and appears as these do; rules are not asked, so
// none can send it elsewhere. That is netfilter's "nat-follow-master", but for one
// thing: a source that is not the master's keeps to the rules, instead of being
// given the address of the master's peer.
//
// # What the RFCs demand
//
// Requirement by requirement: how strong it is, whether it is met, what it is
// about, and a test that fails when it no longer holds. "Met in rfc profile" is met
// with conntrack.profile = "rfc" and a rule that says nothing else. RFC 7857 has
// sections in place of numbers. A test in internal/archtest reads this table.
//
//	4787 REQ-1    MUST    met in rfc profile  mapping depends on the inside endpoint alone - selftest.TestRFCProfileMeetsTheRequirements
//	4787 REQ-2    SHOULD  met in rfc profile  a host keeps its external address - selftest.TestPoolingIsFound
//	4787 REQ-3    MUST    met in rfc profile  no port stands for two endpoints - selftest.TestRFCProfileMeetsTheRequirements
//	4787 REQ-3a   SHOULD  met in rfc profile  class of ports kept - selftest.TestRFCProfileMeetsTheRequirements
//	4787 REQ-4    SHOULD  met in rfc profile  parity kept - selftest.TestRFCProfileMeetsTheRequirements
//	4787 REQ-5    MUST    met in rfc profile  UDP: 5 minutes - selftest.TestTimersOfTheProfiles
//	4787 REQ-5a   MAY     met                 other timers for some ports, by rule - dataplane.TestRulesGiveFlowsTheirTimeouts
//	4787 REQ-5b   MAY     met                 timers can be set - selftest.TestTimersOfTheConfigurationAreFound
//	4787 REQ-5c   SHOULD  met in rfc profile  5 minutes by default - selftest.TestTimersOfTheProfiles
//	4787 REQ-6    MUST    met                 outbound packets refresh - selftest.TestTimersOfTheProfiles
//	4787 REQ-6a   MAY     met                 inbound ones, too - selftest.TestTimersOfTheProfiles
//	4787 REQ-7    MUST    met                 hosts outside with addresses of the inside - vnet.TestOutsideHostsWithInsideAddressesAreReached
//	4787 REQ-8    SHOULD  met in rfc profile  filtering: address-dependent - selftest.TestRFCProfileMeetsTheRequirements
//	4787 REQ-8a   MAY     met                 the administrator chooses - selftest.TestEveryMappingAndFilteringIsFound
//	4787 REQ-9    MUST    met in rfc profile  hairpinning - selftest.TestRFCProfileMeetsTheRequirements
//	4787 REQ-9a   MUST    met in rfc profile  the source is the external one - selftest.TestRFCProfileMeetsTheRequirements
//	4787 REQ-10   SHOULD  met                 no ALG without a rule - dataplane.TestFlowsHaveNoHelperWithoutARule
//	4787 REQ-10a  SHOULD  met                 each by its own rule - dataplane.TestFlowsHaveNoHelperWithoutARule
//	4787 REQ-11   MUST    met in rfc profile  the same under contention - selftest.TestRFCProfileMeetsTheRequirements
//	4787 REQ-12   MUST    met                 ICMP ends no mapping - selftest.TestErrorsFragmentsAndSizesPass
//	4787 REQ-12a  SHOULD  met                 errors from anybody on the way - selftest.TestErrorsFragmentsAndSizesPass
//	4787 REQ-12b  SHOULD  met                 destination unreachable - selftest.TestErrorsFragmentsAndSizesPass
//	4787 REQ-13   MUST    met                 fragmentation needed is told - selftest.TestErrorsFragmentsAndSizesPass
//	4787 REQ-13a  MUST    met                 without DF: fragmented, in order - selftest.TestErrorsFragmentsAndSizesPass
//	4787 REQ-14   MUST    met                 fragments in any order - selftest.TestErrorsFragmentsAndSizesPass
//	4787 REQ-14a  MUST    met                 within bounds - frag.TestFloodDoesNotStarveOthers
//
//	5382 REQ-1    MUST    met in rfc profile  mapping as for UDP - selftest.TestRFCProfileMeetsTheRequirements
//	5382 REQ-2    MUST    met                 every valid sequence - conntrack.TestTCPLife
//	5382 REQ-2a   MUST    met                 simultaneous open - selftest.TestUnsolicitedSYNsAreDroppedSilently
//	5382 REQ-3    SHOULD  met in rfc profile  filtering: address-dependent - selftest.TestRFCProfileMeetsTheRequirements
//	5382 REQ-3a   MAY     met                 the administrator chooses - selftest.TestEveryMappingAndFilteringIsFound
//	5382 REQ-3b   MAY     met                 other than for UDP - selftest.TestProtocolsBehaveApart
//	5382 REQ-4    MUST    met                 no early answer to a SYN - selftest.TestUnsolicitedSYNsAreDroppedSilently
//	5382 REQ-4a   MUST    met                 none at all: the outside is told nothing - selftest.TestUnsolicitedSYNsAreDroppedSilently
//	5382 REQ-5    MUST    met in rfc profile  2 hours 4 minutes; 4 minutes - selftest.TestTimersOfTheProfiles
//	5382 REQ-5a   MAY     met                 timers can be set - dataplane.TestTimeoutsOfARuleHoldForAllStates
//	5382 REQ-6    SHOULD  met                 no ALG without a rule - dataplane.TestFlowsHaveNoHelperWithoutARule
//	5382 REQ-7    MUST    met in rfc profile  no port stands for two endpoints - selftest.TestRFCProfileMeetsTheRequirements
//	5382 REQ-8    MUST    met in rfc profile  hairpinning - selftest.TestRFCProfileMeetsTheRequirements
//	5382 REQ-8a   MUST    met in rfc profile  the source is the external one - selftest.TestRFCProfileMeetsTheRequirements
//	5382 REQ-9    SHOULD  met                 destination unreachable - selftest.TestErrorsFragmentsAndSizesPass
//	5382 REQ-10   MUST    met                 ICMP ends no mapping - selftest.TestErrorsFragmentsAndSizesPass
//
//	5508 REQ-1    MUST    met                 queries of the inside - selftest.TestErrorsFragmentsAndSizesPass
//	5508 REQ-1a   SHOULD  met in rfc profile  identifiers do not depend on the other end - selftest.TestRFCProfileMeetsTheRequirements
//	5508 REQ-2    MUST    met in rfc profile  queries: 60 seconds - selftest.TestTimersOfTheProfiles
//	5508 REQ-2a   SHOULD  met                 timer can be set - selftest.TestTimersOfTheConfigurationAreFound
//	5508 REQ-3    SHOULD  met                 wrong checksums of errors - packet.TestParseRefusesWhatCannotBe
//	5508 REQ-3a   SHOULD  met                 and of embedded headers - packet.TestWrongEmbeddedHeaderChecksumIsFlagged
//	5508 REQ-3b   MUST    met                 options are stepped over - packet.TestEmbeddedPacketIsReadAsFarAsItGoes
//	5508 REQ-3c   SHOULD  met                 transport checksums are not judged - packet.TestEmbeddedPacketIsReadAsFarAsItGoes
//	5508 REQ-3d   MUST    met                 so extensions do not matter - packet.TestTranslateErrorKeepsAllChecksumsRight
//	5508 REQ-4    MUST    met                 errors from outside - selftest.TestErrorsFragmentsAndSizesPass
//	5508 REQ-5    MUST    met                 errors from inside - selftest.TestErrorsFragmentsAndSizesPass
//	5508 REQ-6    MUST    met                 errors neither refresh nor end - dataplane.TestErrorsNeitherMakeNorKeepFlows
//	5508 REQ-7    MUST    met                 queries one to one, and errors - vnet.TestHairpinnedICMPIsTranslated
//	5508 REQ-7a   MUST    met                 to the right inside host - vnet.TestHairpinnedICMPIsTranslated
//	5508 REQ-8    SHOULD  met                 policy is told with code 13; no port with 1 - dataplane.TestReject
//	5508 REQ-9    MAY     met                 nothing is told to the outside - dataplane.TestDefaultPolicy
//	5508 REQ-10   MUST    met                 unreachable, time exceeded, echo - selftest.TestErrorsFragmentsAndSizesPass
//	5508 REQ-11   MAY     met                 other messages - dataplane.TestErrorsThatGoNowhere
//
//	6888 REQ-1    MUST    met in rfc profile  the requirements of each protocol - selftest.TestRFCProfileMeetsTheRequirements
//	6888 REQ-2    MUST    met in rfc profile  paired by default - selftest.TestPoolingIsFound
//	6888 REQ-3    MUST    met                 any ranges of addresses - nat.TestPoolIsUsedUpAddressByAddress
//	6888 REQ-4    MUST    met                 a limit of ports for each client - dataplane.TestPortsOfAClientAreLimited
//	6888 REQ-4a   MUST    met                 that can be set - config.TestGoodFilesHaveTheirNormalForm
//	6888 REQ-4b   MAY     met                 by protocol - dataplane.TestPortsOfAClientAreLimited
//	6888 REQ-4c   SHOULD  met                 thresholds of rates - conntrack.TestHalfOpenFlowsAndRatesAreShared
//	6888 REQ-5    SHOULD  met                 memory is shared fairly - conntrack.TestFloodOfOneClientTakesNothingFromOthers
//	6888 REQ-5a   SHOULD  met                 as far as one wants - conntrack.TestAClientThatIsAloneLeavesRoom
//	6888 REQ-5b   SHOULD  met                 rates, too - conntrack.TestHalfOpenFlowsAndRatesAreShared
//	6888 REQ-6    MUST    met                 destinations without translation - selftest.TestDestinationsCanBeExempt
//	6888 REQ-7    SHOULD  by choice not       address-dependent is the default, the other is a rule away
//	6888 REQ-8    SHOULD  met in rfc profile  freed ports rest for 120 seconds - selftest.TestFreedPortsAreHeldDown
//	6888 REQ-9    MUST    met                 mappings by request of the client, with [pcp] - control.TestHostsAskForPorts
//	6888 REQ-10   SHOULD  by choice not       an API and metrics, no MIB
//	6888 REQ-11   MUST    met in rfc profile  refused, and nothing ended for it - conntrack.TestRFCSparesTheLastOfATableForThoseWhoAreAnswered
//	6888 REQ-12   SHOULD  met                 nothing is logged without a rule - rules.TestLogLinesTellThePacketAndWhatIsMissing
//	6888 REQ-13   SHOULD  met                 every port is used - nat.TestOneAddressCarries64512FlowsToOneDestination
//	6888 REQ-14   SHOULD  met                 one line for a block of ports - dataplane.TestBlocksOfPorts
//	6888 REQ-15   SHOULD  met                 ports start at random - nat.TestStartsAreSpreadOverTheRange
//
//	7857 2        SHOULD  met                 states of TCP - conntrack.TestTCPCells
//	7857 2.1      SHOULD  met                 opening and closing have their own timers - conntrack.TestRuleOverridesTimeoutsByState
//	7857 2.2      MUST    met in rfc profile  a RST is translated, and waited 4 minutes for - selftest.TestTimersOfTheProfiles
//	7857 3        MAY     met                 ports for several destinations, by rule - selftest.TestEveryMappingAndFilteringIsFound
//	7857 4        SHOULD  met                 then another address of the pool - nat.TestPoolIsUsedUpAddressByAddress
//	7857 5        SHOULD  met                 mapping by protocol - selftest.TestProtocolsBehaveApart
//	7857 6        SHOULD  met                 filtering by protocol - selftest.TestProtocolsBehaveApart
//	7857 7        MAY     by choice not       inbound packets always refresh
//	7857 7.1      SHOULD  met                 errors do not - selftest.TestTimersOfTheProfiles
//	7857 8        MAY     by choice not       parity is a preference, never a refusal
//	7857 9        SHOULD  met                 ports are hard to guess - nat.TestStartsAreSpreadOverTheRange
//	7857 10       SHOULD  by choice not       identifications stay the sender's
//	7857 11       MAY     met                 a query mapping ends with its last session - selftest.TestTimersOfTheProfiles
//	7857 12       MUST    met                 queries and errors are hairpinned - vnet.TestHairpinnedICMPIsTranslated
package nat
