// Package api is the control interface of a running gateway: HTTP and JSON over
// a unix socket, and the client for it.
//
// Everything lives under /v1. A request that fails answers with a status of 400
// or above and {"error": "what, and what to do"}. Lists of flows and the event
// stream come as JSON lines, or as the text conntrack(8) prints with
// format=text. The parameter filter of those about flows is a Filter as JSON; labels
// names the labels that the output option of that name prints: 0=voice,7=guest.
//
//	GET    /v1/status             health, interfaces, load
//	GET    /v1/ready              200 once packets flow, 503 before, with the status
//	GET    /v1/flows              the table (format, output, family, proto; table: unconfirmed, dying)
//	GET    /v1/flows/count        how many flows there are
//	DELETE /v1/flows              end every flow
//	POST   /v1/flows/delete       end those that pass the filter, and list them
//	POST   /v1/flows/update       change those that pass the filter (a FlowUpdate), and list them
//	POST   /v1/flows/get          the one with a tuple
//	GET    /v1/events             stream of NEW, UPDATE, DESTROY (format, output, family, proto, events)
//	GET    /v1/expectations       flows that were announced (format, family, proto)
//	POST   /v1/expectations       announce one
//	DELETE /v1/expectations       end every expectation
//	POST   /v1/expectations/delete  end the one with a tuple
//	GET    /v1/expectations/count   how many there are
//	GET    /v1/expectations/events  stream of NEW, DESTROY (format, output, family, proto)
//	GET    /v1/explain            ?packet=... what would become of a packet, step by step
//	GET    /v1/rules              rules in normal form with hits
//	GET    /v1/rules/counters     counters that rules name
//	GET    /v1/config             the configuration in force, as it was read
//	GET    /v1/counters           dropped packets by reason, with advice
//	GET    /v1/ports/requested    external ports that hosts have at their request
//	GET    /v1/check              what is wrong with the table of flows: nothing, as a rule
//	GET    /v1/interfaces         interfaces the gateway serves
//	POST   /v1/interfaces         add one at run time
//	DELETE /v1/interfaces/{name}  remove one
//	POST   /v1/reload             read the configuration again; answers when it is in force
//
// The socket has mode 0600: whoever may connect may do everything. A socket file
// whose owner is gone is replaced; one that answers is left alone.
package api
