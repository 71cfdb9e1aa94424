package api

import (
	_ "embed"
	"net/http"
)

// openAPIFile describes the API (OpenAPI 3.1). A test makes it from routes and from
// the types of what they take and give, and fails when it is another:
// go test ./control/api -run TestOpenAPI -update accepts what has changed.
//
//go:embed openapi.json
var openAPIFile []byte

func (s *Server) openAPI(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", mediaTypeJSON)
	_, _ = w.Write(openAPIFile) // an error: the reader is gone
	return nil
}
