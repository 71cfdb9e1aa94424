package config

import (
	"fmt"
	"strings"

	"example.com/culvert/rules"
)

// Reference returns the list of all keys, with type, default, meaning and an
// example, as Markdown. It is made from the descriptions that files are read by.
func Reference() string {
	var b strings.Builder
	b.WriteString("# Configuration reference\n\nThe file is TOML. Unknown keys are errors.\n")
	section(&b, "[gateway]", "The process.", gatewayKeys)
	section(&b, "[[area]]", "A group of interfaces that rules treat alike. host, lan, wan and guest exist without being listed.", areaKeys)
	section(&b, "[[interface]]", "A network interface that the gateway owns.", interfaceKeys)
	section(&b, "[[interface]] check", "How to find out that the router behind an interface works: one of ping, tcp and neighbour, sent by the gateway itself from its first address on the interface.", checkKeys)
	section(&b, "[[route]]", "A static route beside those of the interfaces.", routeKeys)
	section(&b, "[conntrack]", "The connection table.", conntrackKeys)
	section(&b, "[conntrack.shares]", "What one client may have of a table that is filled to nine tenths; below that nobody is bounded. A share is max-min fair: the largest number such that, if nobody had more, all would fit.", sharesKeys)
	section(&b, "[conntrack.timeouts]", "How long idle flows live. Rules can give flows other timeouts, by the same names, with their key timeout.", timeoutKeys)
	section(&b, "[host]", "The way to the kernel of the gateway's own namespace.", hostKeys)
	section(&b, "[pcp]", "External ports that hosts inside ask for. A port lets everybody in, as far as the filter rules do; the rule that translates the host towards the default route decides which ports it may have.", pcpKeys)
	section(&b, "[api]", "The control interface. Whoever may talk to it may do everything with the gateway, and read what the gateway may read: give its token to nobody else.", apiKeys)
	section(&b, "[helpers]", "Bounds of what helpers may ask for and keep, so that no client takes what others need. A client is an address, in IPv6 a /64. All of them hold from a reload on; edits and reorder for flows that get their helper after it.", helperKeys)
	section(&b, "[limits]", "Bounds of queues and tables that have no section of their own. LIMITS.md lists all there are, with what counts when one is reached. Changes need a restart.", limitKeys)
	section(&b, "[log]", "The log of the process itself, on standard error.", logKeys)
	section(&b, "[log.components]", "Levels of parts of the gateway.", componentKeys)
	section(&b, "[[flowlog]]", "A log of what becomes of flows, in a file or at a syslog server. When it is configured as the gateway starts, flows keep their start time (128 bytes each) so that lines have durations.", flowLogKeys)
	section(&b, "[[ipfix]]", "A collector that is told of NAT events by IPFIX (RFC 7011, RFC 8158).", ipfixKeys)
	section(&b, "[events]", "What is kept of the events of flows and expectations, for readers who are slow or come back. Changes need a restart.", eventKeys)
	section(&b, "[[set]]", "A list of values with a name, which rules use as @name. Its elements are no part of a rule: when they change with a reload the rule stays the same.", setKeys)
	for list := range rules.NumLists {
		section(&b, "[["+list.String()+"]]", listDocs[list], ruleKeys(list))
	}
	return b.String()
}

func section[T any](b *strings.Builder, title, doc string, keys []key[T]) {
	fmt.Fprintf(b, "\n## `%s`\n\n%s\n\n", title, doc)
	for i := range keys {
		k := &keys[i]
		def := "not set by default"
		switch k.def {
		case "":
		case required:
			def = required
		default:
			def = "default " + k.def
		}
		fmt.Fprintf(b, "- `%s`: %s; %s. %s Example: `%s = %s`\n", k.name, k.typ, def, k.doc, k.name, k.example)
	}
}
