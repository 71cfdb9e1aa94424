package api

import "net/http"

// route is one request that the server answers. The mux, the check of parameters
// and openapi.json are made from it.
type route struct {
	pattern string // method and path
	name    string // operationId
	doc     string // a sentence without its full stop
	params  []param
	body    any   // zero value of what the body holds; nil: there is none
	needs   bool  // the body must be there
	gives   any   // zero value of the answer; nil: nothing, or what media says
	media   media // how gives is written
	takes   media // mediaSnapshot: the body is one, and no JSON
	fails   []int // statuses of refusals beside those that every request may get
	handle  func(http.ResponseWriter, *http.Request) error
}

// media is how an answer is written.
type media uint8

const (
	mediaJSON     media = iota // one value
	mediaLines                 // a value a line, or text
	mediaStream                // the same, until somebody goes
	mediaMetrics               // the text that Prometheus reads
	mediaCapture               // a pcapng file, until somebody goes
	mediaSnapshot              // a file of package snapshot
	mediaHealth                // one value with status 200, or 503 when something is wrong
)

// param is a parameter of the query.
type param struct {
	name string
	doc  string
	enum []string // values; with list, of the words between commas; none: any
	list bool
	gist any // zero value of what it holds: a string, an integer, or JSON of that type
}

// Parameters that several requests have.
var (
	paramFormat = param{name: "format", doc: "How lines are written: JSON lines, or as conntrack(8) prints them. save is not for expectations",
		enum: []string{string(FormJSON), string(FormText), string(FormXML), string(FormSave)}, gist: ""}
	paramOutput = param{name: "output", doc: "What format=text and format=xml add, as -o of conntrack(8) does; why says who decided about a flow, also with json",
		enum: []string{"extended", "id", "timestamp", "ktimestamp", "labels", "why"}, list: true, gist: ""}
	paramLabels = param{name: "labels", doc: "Names of labels for output=labels: BIT=NAME between commas", gist: ""}
	paramEvents = param{name: "events", doc: "Which events; all by default",
		enum: []string{"ALL", "NEW", "UPDATES", "DESTROY"}, list: true, gist: ""}
	paramAbout = param{name: "about", doc: "Whose events: of flows, of expectations, or of both in one order; flows by default",
		enum: []string{string(AboutFlows), string(AboutExpectations), string(AboutAll)}, gist: ""}
	paramSnapshot = param{name: "snapshot", doc: "Begin with what there is, as lines LISTED, and go on with every event that this does not show; the line READY is in between", gist: false}
	paramSince    = param{name: "cursor", doc: "Go on behind the event whose cursor this is, instead of now. If that is gone a line MISSED says how many events were since; 410: nobody knows", gist: ""}
	paramFamily   = param{name: "family", doc: "Only of this family", enum: []string{"ipv4", "ipv6"}, gist: ""}
	paramProto    = param{name: "proto", doc: "Only of this protocol: a name such as tcp, or a number", gist: ""}
	paramTable    = param{name: "table", doc: "Which list: the flows, those whose first packet has not left, those whose end is not told yet",
		enum: []string{string(TableFlows), string(TableUnconfirmed), string(TableDying)}, gist: ""}
	paramFilter   = param{name: "filter", doc: "Only flows that have all that this JSON names; where expectations are among the answer, original, zone and helper alone", gist: Filter{}}
	paramExpected = param{name: "filter", doc: "Only expectations that have all that this JSON names: original, zone and helper alone. What an expectation leaves open is 0", gist: Filter{}}
	paramLimit    = param{name: "limit", doc: "At most so many flows; when there may be more, the header " + headerCursor + " of the answer is the parameter cursor of the next request", gist: 0}
	paramCursor   = param{name: "cursor", doc: "Where the page before has ended. A flow that lives all the while is in exactly one page", gist: ""}
)

// paramsTop are those of GET /v1/top alone.
var paramsTop = []param{
	{name: "view", doc: "What to rank", enum: TopViews(), gist: ""},
	{name: "sort", doc: "By what, the first by default. flows: bytes, packets, total; talkers: bytes, packets, flows, begun; rules: hits, bytes, flows, total; drops: packets, total; ports: used, soon", gist: ""},
	{name: "rows", doc: "How many at most; 20 by default", gist: 0},
	{name: "interval", doc: "Seconds between two answers, 2 by default; longer when the table is so large that looking at it would take more than a few percent of a processor", gist: 0.0},
	{name: "count", doc: "How many answers; without it they go on", gist: 0},
}

// headerCursor is the header that says where the next page of flows begins.
const headerCursor = "Next-Cursor"

// routes lists what the server answers.
func (s *Server) routes() []route {
	b := s.backend
	selecting := []param{paramFormat, paramOutput, paramLabels, paramFamily, paramProto, paramFilter}
	return []route{
		{pattern: "GET /v1/openapi.json", name: "getOpenAPI", doc: "This description of the API",
			gives: map[string]any{}, handle: s.openAPI},
		{pattern: "GET /v1/status", name: "getStatus", doc: "Health, interfaces and load",
			gives: Status{}, handle: answer(b.Status)},
		{pattern: "GET /v1/ready", name: "getReady", doc: "200 once packets flow, before that 503; the status says what it waits for",
			gives: Status{}, media: mediaHealth, handle: s.ready},
		{pattern: "GET /v1/live", name: "getLive", doc: "200 while the gateway can do its work, 503 when it is stuck, with what is stuck",
			gives: Liveness{}, media: mediaHealth, handle: s.live},
		{pattern: "GET /metrics", name: "getMetrics", doc: "Metrics in the text format of Prometheus", media: mediaMetrics},

		{pattern: "GET /v1/flows", name: "listFlows", doc: "The flows, in an order that stays",
			params: append([]param{paramTable, paramLimit, paramCursor}, selecting...), gives: Flow{}, media: mediaLines, handle: s.flows},
		{pattern: "POST /v1/flows", name: "insertFlow", doc: "Make a flow without a packet",
			body: NewFlow{}, needs: true, gives: Flow{}, fails: []int{http.StatusConflict, http.StatusUnprocessableEntity}, handle: s.insertFlow},
		{pattern: "DELETE /v1/flows", name: "flushFlows", doc: "End every flow", gives: Count{}, handle: s.flushFlows},
		{pattern: "GET /v1/flows/count", name: "countFlows", doc: "How many flows there are", gives: Count{}, handle: s.countFlows},
		{pattern: "GET /v1/flows/stats", name: "getFlowStats", doc: "What happened to lookups and new flows, by worker", gives: FlowStats{}, handle: s.flowStats},
		{pattern: "POST /v1/flows/zero", name: "zeroFlows", doc: "The flows that pass the filter, whose counters begin anew with this answer",
			params: selecting, gives: Flow{}, media: mediaLines, handle: s.zeroFlows},
		{pattern: "POST /v1/flows/get", name: "getFlow", doc: "The flow with a tuple in either direction",
			params: selecting, body: Tuple{}, needs: true, gives: Flow{}, media: mediaLines, fails: []int{http.StatusNotFound}, handle: s.flow},
		{pattern: "POST /v1/flows/delete", name: "deleteFlows", doc: "End the flows that pass the filter, and list them",
			params: selecting, gives: Flow{}, media: mediaLines, handle: s.deleteFlows},
		{pattern: "POST /v1/flows/update", name: "updateFlows", doc: "Change the flows that pass the filter, except those that are so already, and list them",
			params: selecting, body: FlowUpdate{}, needs: true, gives: Flow{}, media: mediaLines, handle: s.updateFlows},
		{pattern: "GET /v1/events", name: "followFlows", doc: "What happens to flows: a stream of events from now on, behind a list of what there is, or from where a reader was before",
			params: append([]param{paramEvents, paramAbout, paramSnapshot, paramSince}, selecting...), gives: Event{}, media: mediaStream,
			fails: []int{http.StatusGone}, handle: s.events},

		{pattern: "GET /v1/expectations", name: "listExpectations", doc: "Flows that were announced",
			params: []param{paramFormat, paramFamily, paramProto, paramExpected}, gives: Expectation{}, media: mediaLines, handle: s.expectations},
		{pattern: "POST /v1/expectations", name: "createExpectation", doc: "Announce a flow that belongs to another one",
			body: Expectation{}, needs: true, fails: []int{http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity}, handle: s.createExpectation},
		{pattern: "DELETE /v1/expectations", name: "flushExpectations", doc: "End every expectation", gives: ExpectCount{}, handle: s.flushExpectations},
		{pattern: "GET /v1/expectations/count", name: "countExpectations", doc: "How many expectations there are", gives: ExpectCount{}, handle: s.countExpectations},
		{pattern: "POST /v1/expectations/get", name: "getExpectation", doc: "The expectation with a tuple",
			params: []param{paramFormat}, body: Tuple{}, needs: true, gives: Expectation{}, media: mediaLines, fails: []int{http.StatusNotFound}, handle: s.expectation},
		{pattern: "POST /v1/expectations/delete", name: "deleteExpectation", doc: "End the expectation with a tuple",
			body: Tuple{}, needs: true, fails: []int{http.StatusNotFound}, handle: s.deleteExpectation},
		{pattern: "GET /v1/expectations/events", name: "followExpectations", doc: "What happens to expectations: a stream of events, as of followFlows",
			params: []param{paramEvents, paramSnapshot, paramSince, paramFormat, paramOutput, paramFamily, paramProto, paramExpected}, gives: Event{}, media: mediaStream,
			fails: []int{http.StatusGone}, handle: s.expectEvents},

		{pattern: "GET /v1/snapshot", name: "saveSnapshot", doc: "Flows with all that is known of them, expectations and ports that are kept, as a file for restoreSnapshot",
			media: mediaSnapshot, handle: s.saveSnapshot},
		{pattern: "POST /v1/snapshot", name: "restoreSnapshot", doc: "Have the flows of a snapshot again, besides those that there are; a file that is damaged, or of another version, is refused whole",
			takes: mediaSnapshot, needs: true, gives: RestoreResult{}, fails: []int{http.StatusUnprocessableEntity}, handle: s.restoreSnapshot},

		{pattern: "GET /v1/explain", name: "explain", doc: "What would become of a packet, step by step",
			params: []param{{name: "packet", doc: "The packet: " + ProbeSyntax, gist: ""}},
			gives:  Explanation{}, fails: []int{http.StatusNotFound, http.StatusUnprocessableEntity}, handle: s.explain},
		{pattern: "GET /v1/trace", name: "trace", doc: "What becomes of each packet from now on, and why: a stream of their walks",
			params: []param{paramMatch, paramRate, paramWalks, paramCount, paramDuration},
			gives:  TracedPacket{}, media: mediaStream, fails: []int{http.StatusUnprocessableEntity}, handle: s.trace},
		{pattern: "GET /v1/capture", name: "capture", doc: "Packets before and after translation, with their walks as comments: a pcapng file that grows",
			params: []param{paramMatch, paramSnap, paramRate, paramWalks, paramCount, paramDuration},
			media:  mediaCapture, fails: []int{http.StatusUnprocessableEntity}, handle: s.capture},
		{pattern: "GET /v1/rules", name: "listRules", doc: "The rules in force in normal form, with hits", gives: []Rule{}, handle: answer(b.Rules)},
		{pattern: "GET /v1/rules/counters", name: "listRuleCounters", doc: "The counters that rules name", gives: []RuleCounter{}, handle: answer(b.RuleCounters)},
		{pattern: "GET /v1/config", name: "getConfig", doc: "The configuration in force, as it was read", gives: Config{}, handle: answer(b.Config)},
		{pattern: "POST /v1/reload", name: "reload", doc: "Read the configuration again, or say what that would change; answers when it is in force",
			body: ReloadRequest{}, gives: ReloadResult{}, fails: []int{http.StatusForbidden, http.StatusUnprocessableEntity}, handle: s.reload},
		{pattern: "POST /v1/upgrade", name: "upgrade", doc: "Have a new process, of another binary perhaps, go on with interfaces and flows; answers when it does, or when it was rolled back",
			body: UpgradeRequest{}, gives: UpgradeResult{}, fails: []int{http.StatusForbidden, http.StatusUnprocessableEntity}, handle: s.upgrade},
		{pattern: "GET /v1/counters", name: "listCounters", doc: "Dropped packets by reason, with advice", gives: []Counter{}, handle: answer(b.Counters)},
		{pattern: "GET /v1/helpers", name: "listHelpers", doc: "What each helper could not read, announced, and was refused", gives: []Helper{}, handle: answer(b.Helpers)},
		{pattern: "GET /v1/ports", name: "listPorts", doc: "How full the ports of external addresses are, the fullest first", gives: []PortUse{}, handle: s.ports},
		{pattern: "GET /v1/ports/requested", name: "listRequestedPorts", doc: "External ports that hosts have at their request", gives: []PortMapping{}, handle: answer(b.PortMappings)},
		{pattern: "GET /v1/log", name: "getLog", doc: "The levels of the log of the process",
			gives: Log{}, fails: []int{http.StatusUnprocessableEntity}, handle: s.levels},
		{pattern: "POST /v1/log", name: "setLog", doc: "Change levels of the log until the next reload",
			body: LogChange{}, needs: true, gives: Log{}, fails: []int{http.StatusUnprocessableEntity}, handle: s.setLog},
		{pattern: "GET /v1/exports", name: "listExports", doc: "Flow logs and IPFIX collectors, and how they fare", gives: []Export{}, handle: answer(b.Exports)},
		{pattern: "GET /v1/top", name: "watchTop", doc: "The flows, talkers, rules, drops or ports that matter most now, with rates: a stream of answers",
			params: append([]param{paramFamily, paramProto, paramFilter}, paramsTop...), gives: Top{}, media: mediaStream, fails: []int{http.StatusServiceUnavailable}, handle: s.top},
		{pattern: "GET /v1/check", name: "checkFlows", doc: "What is wrong with the table of flows: nothing, as a rule", gives: CheckResult{}, handle: s.check},
		{pattern: "GET /v1/interfaces", name: "listInterfaces", doc: "The interfaces that the gateway serves", gives: []Interface{}, handle: s.interfaces},
		{pattern: "POST /v1/interfaces", name: "addInterface", doc: "Serve one more interface until the gateway ends",
			body: InterfaceSpec{}, needs: true, fails: []int{http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity}, handle: s.addInterface},
		{pattern: "DELETE /v1/interfaces/{name}", name: "removeInterface", doc: "Stop serving an interface",
			fails: []int{http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity}, handle: s.removeInterface},
	}
}
