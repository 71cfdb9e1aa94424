package api

import (
	"fmt"
	"net/http"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// FlowUpdate is what a request changes in flows; what it leaves out stays.
type FlowUpdate struct {
	Mark        *MarkFilter `json:"mark,omitempty"`    // the bits of Mask are cleared, then those of Value toggled
	Timeout     *uint32     `json:"timeout,omitempty"` // seconds from now; the next packet sets it as usual
	Status      []string    `json:"status,omitempty"`  // bits to set: SEEN_REPLY, ASSURED, FIXED_TIMEOUT
	AddLabels   []int       `json:"add_labels,omitempty"`
	ClearLabels []int       `json:"clear_labels,omitempty"`
}

// update checks u and converts it.
func (u *FlowUpdate) update() (out conntrack.Update, err error) {
	if u.Mark != nil {
		out.What |= conntrack.ChangedMark
		out.Mark, out.MarkMask = u.Mark.Value, u.Mark.Mask
	}
	if u.Timeout != nil {
		out.What |= conntrack.ChangedTimeout
		out.Timeout = conntrack.Ticks(time.Duration(*u.Timeout) * time.Second)
	}
	if len(u.Status) > 0 {
		out.What |= conntrack.ChangedStatus
		if out.Status, err = settable(u.Status); err != nil {
			return out, err
		}
	}
	set, err := labelSet(u.AddLabels)
	if err != nil {
		return out, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	cleared, err := labelSet(u.ClearLabels)
	if err != nil {
		return out, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	if len(u.AddLabels)+len(u.ClearLabels) > 0 {
		out.What |= conntrack.ChangedLabels
	}
	for i := range set {
		out.Labels[i], out.Mask[i] = set[i], set[i]|cleared[i]
	}
	return out, nil
}

// settable returns the status bits that have these names, if a user may set them.
func settable(words []string) (bits conntrack.Status, err error) {
	for _, word := range words {
		bit, _ := conntrack.ParseStatus(word)
		if bit&conntrack.SettableStatus == 0 || word == "" {
			return 0, fmt.Errorf("%w: status: %q cannot be set", errBadRequest, word)
		}
		bits |= bit
	}
	return bits, nil
}

// changes reports whether u would make f another. Labels count as changed when some are
// added, or cleared where any are set: conntrack(8) does not look which.
func changes(u *conntrack.Update, f *conntrack.Flow) bool {
	none := [2]uint64{}
	return u.What&conntrack.ChangedMark != 0 && f.Mark&^u.MarkMask^u.Mark != f.Mark ||
		u.What&conntrack.ChangedTimeout != 0 && conntrack.Ticks(f.Timeout.Truncate(time.Second)) != u.Timeout ||
		u.What&conntrack.ChangedStatus != 0 && !f.Status.Has(u.Status) ||
		u.What&conntrack.ChangedLabels != 0 && (u.Labels != none || f.Labels != none)
}

// maxUpdated bounds how many flows are looked up before they are changed.
const maxUpdated = 1024

// updateFlows changes the flows that the request wants, except those that are so
// already, and lists them.
func (s *Server) updateFlows(w http.ResponseWriter, r *http.Request) error {
	v, err := s.view(r)
	if err != nil {
		return err
	}
	var request FlowUpdate
	if err := readJSON(r, &request); err != nil {
		return err
	}
	u, err := request.update()
	if err != nil {
		return err
	}
	out, table := newLines(w, v), s.backend.Table()
	var found []tuple.Tuple
	for at, more := uint32(0), true; more; more = at != 0 {
		found = found[:0]
		at = table.DumpFrom(at, func(f *conntrack.Flow) bool {
			if v.wants(f) && changes(&u, f) {
				found = append(found, f.Tuple[tuple.Original])
			}
			return len(found) < maxUpdated
		})
		for _, k := range found {
			if table.Update(k, &u) != nil {
				continue // it has ended, or there is no room for its labels
			}
			if f, err := table.Get(k); err == nil {
				out.flow(&f)
			}
		}
		_ = out.send() // without a reader the flows change all the same
	}
	return nil
}
