package pcp

import (
	"net/netip"
	"time"

	"example.com/culvert/dataplane"
)

// Saved is a record as another process goes on with it.
type Saved struct {
	Proto            uint8
	Inside, External netip.AddrPort
	Version          uint8    // of the protocol that was spoken
	Nonce            [12]byte // that its client shows to change it
	Until            time.Time
}

// Save returns the epoch and all records.
func (s *Server) Save() (began time.Time, all []Saved) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.records {
		all = append(all, Saved{r.proto, r.inside, r.port.External(), r.maker.version, r.maker.nonce, r.until})
	}
	return s.began, all
}

// Adopt goes on with the records of another server, before the first request. It returns
// how many the data path gives no more: then the epoch begins anew, so that clients ask.
func (s *Server) Adopt(began time.Time, all []Saved, now time.Time) (lost int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began = began
	for i := range all {
		x := &all[i]
		port, err := s.gate.RequestPort(dataplane.PortRequest{Proto: x.Proto, Inside: x.Inside, Suggested: x.External, Choice: dataplane.SuggestedOnly})
		if err != nil {
			lost++
			s.began = now
			continue
		}
		r := &record{endpoint: endpoint{x.Proto, x.Inside}, maker: maker{x.Version, x.Nonce}, port: port, until: x.Until}
		s.records[r.endpoint] = r
		s.clients[x.Inside.Addr()]++
	}
	return lost
}
