package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"example.com/culvert/control/api"
)

// exportKinds are the values of the label kind of what follows.
var exportKinds = [...]string{api.ExportFlowLog, api.ExportIPFIX}

var (
	exportDone = describe("culvert_exported_records_total", "Lines of flow logs, and events sent to IPFIX collectors, by kind.", "kind")
	exportLost = describe("culvert_export_lost_total", "Events that did not get into a flow log or to a collector, by kind; raise buffer or queue, or find out why the other side is slow.", "kind")
	exportBad  = describe("culvert_exports_failing", "Flow logs and collectors that take nothing at the moment, by kind; the log says why.", "kind")
	logLost    = describe("culvert_log_lost_total", "Lines of the gateway's own log that found no room because whoever reads it is too slow, or reads nothing.")
	heldBack   = describe("culvert_log_suppressed_total", "Lines of the gateway's own log that were held back because their message came too often.")
	apiRefused = describe("culvert_control_refused_connections_total", "Connections to the control interface beyond its bounds: see api.max_connections.")
	apiUnknown = describe("culvert_control_unauthorized_requests_total", "Requests to the control listener without the token, or with a wrong one.")
)

// collectExports sums exports by kind: a reload that ends one of them takes its numbers
// away.
func collectExports(all []api.Export, gauge func(*prometheus.Desc, float64, ...string), count func(*prometheus.Desc, uint64, ...string)) {
	for _, kind := range exportKinds {
		var written, lost uint64
		failing := 0.0
		for i := range all {
			if e := &all[i]; e.Kind == kind {
				written += e.Written
				lost += e.Lost
				failing += 1 - oneIf(e.Working)
			}
		}
		count(exportDone, written, kind)
		count(exportLost, lost, kind)
		gauge(exportBad, failing, kind)
	}
}
