package api

import (
	"fmt"
	"time"
)

// Where trouble begins.
const (
	fullTable   = 80               // percent of conntrack.max
	fullPorts   = 90               // percent of an external address
	fullSoon    = 30 * time.Minute // before ports are used up
	busyWorker  = 0.9              // of a processor
	defectsSeen = "internal"       // Reason of packets that met a defect
)

// FindTroubles returns what an operator should look at, each with what to do, the most
// urgent first.
func (st *Status) FindTroubles() []string {
	all := []string{}
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	for _, w := range st.Waiting {
		add("not ready: %s", w)
	}
	for i := range st.Interfaces {
		st.Interfaces[i].troubles(add)
	}
	for _, w := range st.Still {
		add("worker %d stands still, and so do its packets: find out what keeps its thread from running (top -H shows it by this name), or restart the gateway", w)
	}
	for _, to := range st.Failing {
		add("%s takes nothing: see to its disk or server; what cannot wait is lost, and counted", to)
	}
	if percent := st.Flows * 100 / max(st.FlowLimit, 1); percent >= fullTable {
		add("the table of flows is %d %% full: raise conntrack.max, or find out what the largest holders do", percent)
	}
	for _, p := range st.Ports {
		if soon := time.Duration(p.FullIn * float64(time.Second)); p.Percent() >= fullPorts || soon > 0 && soon < fullSoon {
			add("ports of %s: widen ports or add an address", p)
		}
	}
	l := st.Load
	if l == nil {
		return all
	}
	for i, busy := range l.Busy {
		if busy >= busyWorker {
			add("worker %d is %.0f %% busy: give the gateway more workers, or a faster processor", i, busy*100)
		}
	}
	if l.RingLost > 0 {
		add("%d frames came faster than workers took them: more workers, or look for a flood in culvert top", l.RingLost)
	}
	for _, d := range l.Drops {
		if d.Reason == defectsSeen {
			add("%d packets met a defect of the gateway: %s", d.Count, d.Advice)
		}
	}
	return all
}

func (i *Interface) troubles(add func(string, ...any)) {
	switch {
	case i.State == StateDown:
		add("interface %s is down: set it up, or see to its cable", i.Name)
	case i.Uplink != nil && i.Uplink.State == StateDown:
		add("uplink %s is down since %s: %s", i.Name, i.Uplink.Since.Format(time.DateTime), i.Uplink.Trouble)
	}
}
