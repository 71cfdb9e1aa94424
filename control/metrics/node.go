package metrics

import (
	"example.com/culvert/conntrack"
	"example.com/culvert/control/api"
)

// What node_exporter exports of the kernel's connection tracking: gauges all of them,
// also those that count.
var (
	nodeEntries = describe("node_nf_conntrack_entries", "Tracked flows; culvert_flows under the name of node_exporter.")
	nodeLimit   = describe("node_nf_conntrack_entries_limit", "Most flows that can be tracked; culvert_flows_limit under the name of node_exporter.")
	nodeFound   = describe("node_nf_conntrack_stat_found", "Packets that found their flow, ever.")
	nodeInvalid = describe("node_nf_conntrack_stat_invalid", "Packets that tracking refused, ever.")
	nodeIgnore  = describe("node_nf_conntrack_stat_ignore", "Packets that need no tracking, ever; always 0, as in kernels since 5.7.")
	nodeInsert  = describe("node_nf_conntrack_stat_insert", "Flows whose first packet left, ever.")
	nodeFailed  = describe("node_nf_conntrack_stat_insert_failed", "New flows that found their addresses and ports taken, ever.")
	nodeDrop    = describe("node_nf_conntrack_stat_drop", "New flows that found no room, ever.")
	nodeEarly   = describe("node_nf_conntrack_stat_early_drop", "Flows that ended early to make room, ever.")
	nodeRestart = describe("node_nf_conntrack_stat_search_restart", "Searches that began again; always 0: none has to.")
)

func collectNode(st *api.Status, s *conntrack.Stats, gauge gauger) {
	gauge(nodeEntries, float64(st.Flows))
	gauge(nodeLimit, float64(st.FlowLimit))
	gauge(nodeFound, float64(s.Found))
	gauge(nodeInvalid, float64(s.Invalid))
	gauge(nodeIgnore, 0)
	gauge(nodeInsert, float64(s.Insert))
	gauge(nodeFailed, float64(s.InsertFailed))
	gauge(nodeDrop, float64(s.Drop))
	gauge(nodeEarly, float64(s.EarlyDrop))
	gauge(nodeRestart, 0)
}
