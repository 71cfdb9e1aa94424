package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// RestoreResult says what became of a snapshot. What is not restored is counted by why.
type RestoreResult struct {
	Flows        int `json:"flows"`
	Expectations int `json:"expectations"`
	Ports        int `json:"ports"`   // that are kept for who had them
	Expired      int `json:"expired"` // its time was over
	Taken        int `json:"taken"`   // its tuple or port is another flow's, or its master is gone
	Full         int `json:"full"`    // there was no room
	Torn         int `json:"torn"`    // its record makes no sense
}

// Recalled says what became of the flows that the process before this one had left in
// conntrack.state. All zero: it had left nothing.
type Recalled struct {
	RestoreResult
	Seconds float64 `json:"seconds"`           // that it took, before the first packet
	Refused string  `json:"refused,omitempty"` // why nothing could be read
}

// saveSnapshot streams a snapshot. A reader who gets no digest got no snapshot.
func (s *Server) saveSnapshot(w http.ResponseWriter, _ *http.Request) error {
	if s.backend.Table() == nil {
		return ErrNotRunning
	}
	w.Header().Set("Content-Type", mediaTypeSnapshot)
	if err := s.backend.SaveSnapshot(w); err != nil {
		s.log.Debug("snapshot was cut off", "error", err)
		panic(http.ErrAbortHandler) // the only way to tell who has part of it
	}
	return nil
}

// restoreSnapshot reads a snapshot into memory: it is verified before anything is done.
func (s *Server) restoreSnapshot(w http.ResponseWriter, r *http.Request) error {
	if s.backend.Table() == nil {
		return ErrNotRunning
	}
	b := make([]byte, 0, max(min(r.ContentLength, s.backend.SnapshotLimit()), 512))
	for {
		n, err := r.Body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		var long *http.MaxBytesError
		switch {
		case errors.As(err, &long):
			return fmt.Errorf("%w: a snapshot for this table has at most %d bytes", errTooLarge, long.Limit)
		case errors.Is(err, io.EOF):
			result, err := s.backend.RestoreSnapshot(b)
			if err == nil {
				writeJSON(w, http.StatusOK, result)
			}
			return err
		case err != nil:
			return fmt.Errorf("%w: body: %w", errBadRequest, err)
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}

// Snapshot returns a snapshot of the gateway's flows as a file that ends with its
// digest. The caller closes it.
func (c *Client) Snapshot(ctx context.Context) (io.ReadCloser, error) {
	return c.stream(ctx, "/v1/snapshot", nil)
}

// RestoreSnapshot has the gateway have the flows of a snapshot again. ErrRefused: it is
// damaged, or of another version.
func (c *Client) RestoreSnapshot(ctx context.Context, snapshot []byte) (result RestoreResult, err error) {
	body, err := c.send(ctx, http.MethodPost, "/v1/snapshot", mediaTypeSnapshot, bytes.NewReader(snapshot))
	if err != nil {
		return result, err
	}
	defer body.Close()
	return result, decode(body, &result)
}
