// Package api is the control interface of a running gateway: HTTP and JSON over
// a unix socket, and the client for it.
//
// Everything but /metrics lives under /v1: within a version fields and requests are
// added, and none goes or changes its meaning. routes (routes.go) lists all that can be
// asked for. openapi.json describes it for programs (OpenAPI 3.1) and is served at
// /v1/openapi.json; a test makes it from routes and from the Go types of bodies and
// answers, with their comments, and fails when the file is another. A second test asks
// for every route and holds the answers against the file (package apitest), a third
// one sees to it that every parameter is read.
//
// # What is asked for
//
//	flows            list in pages, get, insert, update, delete, read and zero counters of those that pass a filter; flush, count, stats
//	events           stream of NEW, UPDATE, DESTROY of flows, expectations or both
//	expectations     list, get, create, delete, flush, count; their events
//	rules, counters  rules in force and dropped packets, with hits; counters that rules name
//	explain          what would become of a packet
//	config, reload   the configuration in force; another one, or what it would change
//	ports            how full external addresses are; ports that hosts asked for
//	interfaces       those served; add and remove
//	status, ready, live, check, /metrics   how it does
//
// Lists of flows and streams are JSON lines, or the text that conntrack(8) prints with
// format=text. The parameter filter of those about flows is a Filter as JSON; labels
// names the labels that the output option of that name prints: 0=voice,7=guest.
//
// # Pages
//
// GET /v1/flows lists the whole table. With limit it lists at most so many flows, and
// the header Next-Cursor says where to go on. Flows are in the order of their places in
// the table, which a flow keeps for its life: one that lives from the first page to the
// last is on exactly one of them, whatever else comes and goes.
//
// # Streams of events
//
// GET /v1/events sends JSON lines (type Event) as things happen. Each has a number and a
// cursor; a reader who comes back with the cursor of the last line he got, in the
// parameter cursor, goes on behind it. The header Events-Cursor is the cursor of where
// the stream begins. With snapshot=true the stream begins with what there is, lines
// LISTED, and after the line READY come events; none is lost in between, and none comes
// that the list shows already (conntrack.Cut). A flow is known by its id.
//
// Nobody waits for a reader. One that falls too far behind (package journal) gets a line
// MISSED instead of events: how many, by kind, of those asked for; which flows they were
// about nobody knows, so the filter does not count. When nobody even knows how many, the
// answer to a cursor is 410 with code gone, and its text names the first cursor there
// is. RESTARTED says that the gateway began anew: forget what you know. In format=text
// lines that begin with "# missed" and "# restarted" say the same.
//
// # Refusals
//
// A request that fails answers with a status of 400 or above and {"error": "what, and
// what to do", "code": "a word for programs"}. Unknown paths, parameters and fields of
// JSON are refused, and the nearest right one is named; so are parameters that are there
// twice, bodies where there is none, other media types than application/json, and bodies
// over a mebibyte. A request has 10 s for its header and 30 s for its body.
//
// # Adding a request
//
// Write the handler, a row of routes and a row of the test table driven, then
// go test ./control/api -run TestOpenAPI -update.
//
// # Who may ask
//
// Whoever may connect may do everything. The socket has mode 0600, and 0660 with a
// group. A socket file whose owner is gone is replaced; one that answers is left alone.
// It takes 256 connections; the next ones get a refusal with the code busy.
//
// A TCP listener exists only with a certificate and a token (remote.go): TLS 1.3, and
// each request has the token in its header Authorization: Bearer TOKEN. Tokens are
// compared by their hashes in constant time, and appear in no answer, error or log.
// Who does not know it gets 401 and the end of the connection. Connections beyond a
// number, and beyond 20 a second, are closed at once. A reload reads certificate, key
// and token again: they hold for the next connection and the next request.
package api
