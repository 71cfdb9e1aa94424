package api

import (
	"fmt"
	"net/http"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// NewFlow is a flow to insert. Original, Timeout and, for TCP, SCTP and DCCP, State are
// needed.
type NewFlow struct {
	Original  Tuple      `json:"original"`
	Reply     *Tuple     `json:"reply,omitempty"`      // left out: the inverse of Original
	ReplyZone *uint16    `json:"reply_zone,omitempty"` // left out: that of Reply, or of Original
	SrcNAT    *NATFilter `json:"src_nat,omitempty"`    // what the source becomes; without a port it keeps its own or, if that is taken, gets another
	DstNAT    *NATFilter `json:"dst_nat,omitempty"`    // what the destination becomes; without a port it keeps its own
	State     string     `json:"state,omitempty"`      // of the protocol
	Status    []string   `json:"status,omitempty"`     // SEEN_REPLY, ASSURED, FIXED_TIMEOUT
	Timeout   uint32     `json:"timeout"`              // seconds until it ends, unless a packet comes
	Mark      uint32     `json:"mark,omitempty"`
	Labels    []int      `json:"labels,omitempty"`    // bits to set
	OrigTag   uint32     `json:"orig_tag,omitempty"`  // of SCTP: the verification tag
	ReplyTag  uint32     `json:"reply_tag,omitempty"` //
}

// Insertion is a NewFlow as a Backend takes it.
type Insertion struct {
	conntrack.Insertion
	AnyPort bool // another source port will do for translated packets if the one in Reply is taken
}

// insertion checks x and converts it.
func (x *NewFlow) insertion() (in Insertion, err error) {
	if in.Original, err = x.Original.tuple("original"); err != nil {
		return in, err
	}
	to := in.Original
	if x.Reply != nil {
		if in.Reply, err = x.Reply.tuple("reply"); err != nil {
			return in, err
		}
		var ok bool
		if to, ok = in.Reply.Inverse(); !ok || to.Proto != in.Original.Proto || to.Family != in.Original.Family {
			return in, fmt.Errorf("%w: reply: no answer to original", errBadRequest)
		}
	}
	in.AnyPort = x.SrcNAT != nil && x.SrcNAT.Port == 0
	if err = translate(x.SrcNAT, &to, &to.Src, &to.SrcPort, "src_nat"); err == nil {
		err = translate(x.DstNAT, &to, &to.Dst, &to.DstPort, "dst_nat")
	}
	if err != nil {
		return in, err
	}
	if x.ReplyZone != nil {
		to.Zone = *x.ReplyZone
	}
	var ok bool
	if in.Reply, ok = to.Inverse(); !ok {
		return in, fmt.Errorf("%w: original: nobody answers %v", errBadRequest, to)
	}
	in.Mark, in.Lives = x.Mark, conntrack.Ticks(time.Duration(x.Timeout)*time.Second)
	in.Tags = [tuple.NumDirections]uint32{x.OrigTag, x.ReplyTag}
	if in.Labels, err = labelSet(x.Labels); err != nil {
		return in, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	if in.Insertion.Status, err = settable(x.Status); err != nil {
		return in, err
	}
	in.State, ok = conntrack.ParseState(in.Original.Proto, x.State)
	if !ok && (x.State != "" || conntrack.HasStates(in.Original.Proto)) {
		return in, fmt.Errorf("%w: state: %q is none of %s", errBadRequest, x.State, tuple.ProtoName(in.Original.Proto))
	}
	return in, nil
}

// translate gives one end of a tuple the address and port of n, as far as it has them.
func translate(n *NATFilter, t *tuple.Tuple, addr *tuple.Addr, port *uint16, what string) error {
	if n == nil {
		return nil
	}
	if a := n.Addr.Unmap(); a.IsValid() {
		if a.Is4() != (t.Family == tuple.IPv4) || a.Zone() != "" {
			return fmt.Errorf("%w: %s: %v is of another family than original", errBadRequest, what, n.Addr)
		}
		*addr = tuple.AddrFrom(a)
	}
	if n.Port != 0 && tuple.HasPorts(t.Proto) {
		*port = n.Port
	}
	return nil
}

// insertFlow makes a flow and returns it.
func (s *Server) insertFlow(w http.ResponseWriter, r *http.Request) error {
	var request NewFlow
	if err := readJSON(r, &request); err != nil {
		return err
	}
	in, err := request.insertion()
	if err != nil {
		return err
	}
	if err := s.backend.InsertFlow(&in); err != nil {
		return err
	}
	f, err := s.backend.Table().Get(in.Original)
	if err != nil { // it has ended already
		f = conntrack.Flow{Tuple: [...]tuple.Tuple{in.Original, in.Reply}, Status: in.Insertion.Status, State: in.State, Mark: in.Mark, Labels: in.Labels}
	}
	writeJSON(w, http.StatusOK, flowFrom(&f))
	return nil
}
