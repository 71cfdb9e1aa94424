package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	const leastWords = 6
	for _, p := range list(t) {
		if len(p.GoFiles) == 0 {
			continue
		}
		if words := len(strings.Fields(p.Doc)); words < leastWords {
			t.Errorf("%s: its package comment starts %q: say what the package is for", p.ImportPath, p.Doc)
		}
	}
}

// knownRFCs lists the numbers that may be quoted, with their titles. A wrong
// number survives for years otherwise. Add a number with its title from the
// RFC index, after reading it.
var knownRFCs = map[int]string{
	768:  "User Datagram Protocol",
	791:  "Internet Protocol",
	792:  "Internet Control Message Protocol",
	793:  "Transmission Control Protocol (obsolete, 9293)",
	826:  "An Ethernet Address Resolution Protocol",
	854:  "Telnet Protocol Specification",
	894:  "Transmission of IP Datagrams over Ethernet Networks",
	950:  "Internet Standard Subnetting Procedure",
	959:  "File Transfer Protocol",
	1001: "Protocol Standard for a NetBIOS Service on a TCP/UDP Transport: Concepts and Methods",
	1002: "Protocol Standard for a NetBIOS Service on a TCP/UDP Transport: Detailed Specifications",
	1035: "Domain Names - Implementation and Specification",
	1071: "Computing the Internet Checksum",
	1112: "Host Extensions for IP Multicasting",
	1122: "Requirements for Internet Hosts - Communication Layers",
	1123: "Requirements for Internet Hosts - Application and Support",
	1155: "Structure and Identification of Management Information for TCP/IP-based Internets",
	1157: "A Simple Network Management Protocol (SNMP)",
	1191: "Path MTU Discovery",
	1350: "The TFTP Protocol (Revision 2)",
	1459: "Internet Relay Chat Protocol",
	1624: "Computation of the Internet Checksum via Incremental Update",
	1701: "Generic Routing Encapsulation (GRE)",
	1812: "Requirements for IP Version 4 Routers",
	1858: "Security Considerations for IP Fragment Filtering",
	1918: "Address Allocation for Private Internets",
	2018: "TCP Selective Acknowledgment Options",
	2131: "Dynamic Host Configuration Protocol",
	2228: "FTP Security Extensions",
	2347: "TFTP Option Extension",
	2389: "Feature Negotiation Mechanism for the File Transfer Protocol",
	2428: "FTP Extensions for IPv6 and NATs",
	2460: "Internet Protocol, Version 6 (obsolete, 8200)",
	2464: "Transmission of IPv6 Packets over Ethernet Networks",
	2474: "Definition of the Differentiated Services Field",
	2577: "FTP Security Considerations",
	2644: "Changing the Default for Directed Broadcasts in Routers",
	2544: "Benchmarking Methodology for Network Interconnect Devices",
	2637: "Point-to-Point Tunneling Protocol (PPTP)",
	2640: "Internationalization of the File Transfer Protocol",
	2663: "NAT Terminology and Considerations",
	2784: "Generic Routing Encapsulation (GRE)",
	2812: "Internet Relay Chat: Client Protocol",
	2890: "Key and Sequence Number Extensions to GRE",
	3022: "Traditional IP Network Address Translator",
	3027: "Protocol Complications with the IP Network Address Translator",
	3168: "The Addition of Explicit Congestion Notification (ECN) to IP",
	3261: "SIP: Session Initiation Protocol",
	3262: "Reliability of Provisional Responses in the Session Initiation Protocol (SIP)",
	3264: "An Offer/Answer Model with the Session Description Protocol (SDP)",
	3311: "The Session Initiation Protocol (SIP) UPDATE Method",
	3339: "Date and Time on the Internet: Timestamps",
	3416: "Version 2 of the Protocol Operations for the Simple Network Management Protocol (SNMP)",
	3515: "The Session Initiation Protocol (SIP) Refer Method",
	3550: "RTP: A Transport Protocol for Real-Time Applications",
	3581: "An Extension to the Session Initiation Protocol (SIP) for Symmetric Response Routing",
	3605: "Real Time Control Protocol (RTCP) attribute in Session Description Protocol (SDP)",
	3659: "Extensions to FTP",
	3704: "Ingress Filtering for Multihomed Networks",
	3810: "Multicast Listener Discovery Version 2 (MLDv2) for IPv6",
	3828: "The Lightweight User Datagram Protocol (UDP-Lite)",
	4034: "Resource Records for the DNS Security Extensions",
	4193: "Unique Local IPv6 Unicast Addresses",
	4217: "Securing FTP with TLS",
	4291: "IP Version 6 Addressing Architecture",
	4302: "IP Authentication Header",
	4303: "IP Encapsulating Security Payload (ESP)",
	4340: "Datagram Congestion Control Protocol (DCCP)",
	4443: "Internet Control Message Protocol (ICMPv6)",
	4566: "SDP: Session Description Protocol",
	4620: "IPv6 Node Information Queries",
	4787: "NAT Behavioral Requirements for Unicast UDP",
	4820: "Padding Chunk and Parameter for SCTP",
	4821: "Packetization Layer Path MTU Discovery",
	4861: "Neighbor Discovery for IP version 6 (IPv6)",
	4862: "IPv6 Stateless Address Autoconfiguration",
	4884: "Extended ICMP to Support Multi-Part Messages",
	4890: "Recommendations for Filtering ICMPv6 Messages in Firewalls",
	4960: "Stream Control Transmission Protocol (obsolete, 9260)",
	5095: "Deprecation of Type 0 Routing Headers in IPv6",
	5226: "Guidelines for Writing an IANA Considerations Section",
	5227: "IPv4 Address Conflict Detection",
	4961: "Symmetric RTP / RTP Control Protocol (RTCP)",
	5382: "NAT Behavioral Requirements for TCP",
	5424: "The Syslog Protocol",
	5426: "Transmission of Syslog Messages over UDP",
	5389: "Session Traversal Utilities for NAT (obsolete, 8489)",
	5508: "NAT Behavioral Requirements for ICMP",
	5597: "NAT Behavioral Requirements for DCCP",
	5722: "Handling of Overlapping IPv6 Fragments",
	5737: "IPv4 Address Blocks Reserved for Documentation",
	5780: "NAT Behavior Discovery Using STUN",
	5927: "ICMP Attacks against TCP",
	5961: "Improving TCP's Robustness to Blind In-Window Attacks",
	6052: "IPv6 Addressing of IPv4/IPv6 Translators",
	6056: "Recommendations for Transport-Protocol Port Randomization",
	6145: "IP/ICMP Translation Algorithm (obsolete, 7915)",
	6146: "Stateful NAT64",
	6147: "DNS64",
	6264: "An Incremental Carrier-Grade NAT for IPv6 Transition",
	6296: "IPv6-to-IPv6 Network Prefix Translation",
	6437: "IPv6 Flow Label Specification",
	6587: "Transmission of Syslog Messages over TCP",
	6583: "Operational Neighbor Discovery Problems",
	6598: "IANA-Reserved IPv4 Prefix for Shared Address Space",
	6633: "Deprecation of ICMP Source Quench Messages",
	6691: "TCP Options and Maximum Segment Size (MSS)",
	6864: "Updated Specification of the IPv4 ID Field",
	6886: "NAT Port Mapping Protocol (NAT-PMP)",
	6887: "Port Control Protocol (PCP)",
	6888: "Common Requirements for Carrier-Grade NATs",
	6890: "Special-Purpose IP Address Registries",
	6936: "IPv6 UDP Datagrams with Zero Checksums",
	6946: "Processing of IPv6 Atomic Fragments",
	6980: "Security Implications of IPv6 Fragmentation with ND",
	7011: "Specification of the IP Flow Information Export (IPFIX) Protocol for the Exchange of Flow Information",
	7045: "Transmission and Processing of IPv6 Extension Headers",
	7112: "Implications of Oversized IPv6 Header Chains",
	7323: "TCP Extensions for High Performance",
	7413: "TCP Fast Open",
	7422: "Deterministic Address Mapping to Reduce Logging in CGN",
	7648: "Port Control Protocol (PCP) Proxy Function",
	7652: "Port Control Protocol (PCP) Authentication",
	7659: "Definitions of Managed Objects for NATs (NATV2-MIB)",
	7739: "Security Implications of Predictable Fragment Identification",
	7857: "Updates to Network Address Translation Behavioral Requirements",
	7915: "IP/ICMP Translation Algorithm",
	8158: "IPFIX Information Elements for Logging NAT Events",
	8259: "The JavaScript Object Notation (JSON) Data Interchange Format",
	8200: "Internet Protocol, Version 6 (IPv6) Specification",
	8201: "Path MTU Discovery for IP version 6",
	8415: "Dynamic Host Configuration Protocol for IPv6 (DHCPv6)",
	8489: "Session Traversal Utilities for NAT (STUN)",
	8504: "IPv6 Node Requirements",
	5621: "Message Body Handling in the Session Initiation Protocol (SIP)",
	5626: "Managing Client-Initiated Connections in the Session Initiation Protocol (SIP)",
	5761: "Multiplexing RTP Data and Control Packets on a Single Port",
	8839: "Session Description Protocol (SDP) Offer/Answer Procedures for Interactive Connectivity Establishment (ICE)",
	8866: "SDP: Session Description Protocol",
	8899: "Packetization Layer Path MTU Discovery for Datagrams",
	8900: "IP Fragmentation Considered Fragile",
	8926: "Geneve: Generic Network Virtualization Encapsulation",
	8981: "Temporary Address Extensions for Stateless Address Autoconfiguration in IPv6",
	8985: "The RACK-TLP Loss Detection Algorithm for TCP",
	9260: "Stream Control Transmission Protocol",
	9293: "Transmission Control Protocol (TCP)",
	9693: "Benchmarking Methodology for Stateful NATxy Gateways",
	9868: "Transport Options for UDP",
}

var rfcQuote = regexp.MustCompile(`\bRFC[ -]?(\d+)`)

func TestQuotedRFCsExist(t *testing.T) {
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "archtest" {
				return filepath.SkipDir
			}
			return nil
		}
		if !slices.Contains([]string{".go", ".md", ".toml", ".txt"}, filepath.Ext(path)) {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i, line := range strings.Split(string(text), "\n") {
			for _, m := range rfcQuote.FindAllStringSubmatch(line, -1) {
				if n, err := strconv.Atoi(m[1]); err != nil || knownRFCs[n] == "" {
					t.Errorf("%s:%d quotes RFC %s, which is not in the list of known ones", path, i+1, m[1])
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
