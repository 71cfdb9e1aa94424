package api

import "net/http"

// FlowStats are the counters of conntrack -S.
type FlowStats struct {
	Workers []WorkerStats `json:"workers"` // what commands did is counted with the first
	Expect  ExpectStats   `json:"expectations"`
}

// WorkerStats are what happened to lookups and new flows in one worker.
type WorkerStats struct {
	Found        uint64 `json:"found"`
	Invalid      uint64 `json:"invalid"`       // packets a tracker refused
	Insert       uint64 `json:"insert"`        // flows that began
	InsertFailed uint64 `json:"insert_failed"` // their tuple was taken
	Drop         uint64 `json:"drop"`          // there was no room for them
	EarlyDrop    uint64 `json:"early_drop"`    // flows that ended to make room
	Error        uint64 `json:"error"`
	Restart      uint64 `json:"restart"` // stale flows that a new connection replaced
	ClashResolve uint64 `json:"clash_resolve"`
	ChainTooLong uint64 `json:"chaintoolong"`
	Expired      uint64 `json:"expired"`
	Deleted      uint64 `json:"deleted"` // by command
}

// ExpectStats are the counters of conntrack -S expect.
type ExpectStats struct {
	New    uint64 `json:"new"` // flows that met their expectation
	Create uint64 `json:"create"`
	Delete uint64 `json:"delete"` // expectations that ended, met or not
}

func (s *Server) flowStats(w http.ResponseWriter, _ *http.Request) error {
	table := s.backend.Table()
	x := table.ExpectStats()
	st := FlowStats{Workers: []WorkerStats{}, Expect: ExpectStats{New: x.New, Create: x.Create, Delete: x.Delete}}
	for _, c := range table.WorkerStats() {
		st.Workers = append(st.Workers, WorkerStats{
			Found: c.Found, Invalid: c.Invalid, Insert: c.Insert, InsertFailed: c.InsertFailed, Drop: c.Drop, EarlyDrop: c.EarlyDrop,
			Error: c.Error, Restart: c.Restart, ClashResolve: c.ClashResolve, ChainTooLong: c.ChainTooLong, Expired: c.Expired, Deleted: c.Deleted,
		})
	}
	writeJSON(w, http.StatusOK, st)
	return nil
}
