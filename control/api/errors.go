package api

import (
	"errors"
	"net/http"

	"example.com/culvert/conntrack"
)

// Errors by what the caller can do about them.
var (
	ErrNotRunning   = errors.New("not running")
	ErrRefused      = errors.New("refused")      // change what you asked for
	ErrNotFound     = errors.New("not found")    // it is not there
	ErrExists       = errors.New("exists")       // it is there already
	ErrUnauthorized = errors.New("unauthorized") // the token is missing or wrong
	ErrForbidden    = errors.New("forbidden")    // others may ask for it
	ErrGone         = errors.New("gone")         // what the cursor leads to; begin anew
	ErrInvalid      = errors.New("bad request")  // the request is wrong in itself
)

// Errors of requests that no handler has seen or that it could not read.
var (
	errBadRequest = ErrInvalid
	errParameter  = errors.New("unknown parameter")
	errField      = errors.New("unknown field")
	errNoPath     = errors.New("no such path")
	errMethod     = errors.New("method not allowed")
	errTooLarge   = errors.New("too large")
	errMedia      = errors.New("unsupported media type")
	errBusy       = errors.New("too many connections")
	errInternal   = errors.New("internal")
)

// failure is the body of every refused request.
type failure struct {
	Error string `json:"error"` // what, and what to do
	Code  string `json:"code" enum:"bad-request,unknown-parameter,unknown-field,unauthorized,forbidden,not-found,gone,no-such-path,method-not-allowed,exists,too-large,unsupported-media-type,refused,internal,not-running,busy"`
}

// kind is what an error is to whom it is told.
type kind struct {
	err    error
	code   string
	status int
}

// kinds are searched from the first on.
var kinds = []kind{
	{errParameter, "unknown-parameter", http.StatusBadRequest},
	{errField, "unknown-field", http.StatusBadRequest},
	{errTooLarge, "too-large", http.StatusRequestEntityTooLarge},
	{errMedia, "unsupported-media-type", http.StatusUnsupportedMediaType},
	{errNoPath, "no-such-path", http.StatusNotFound},
	{errMethod, "method-not-allowed", http.StatusMethodNotAllowed},
	{ErrUnauthorized, "unauthorized", http.StatusUnauthorized},
	{ErrForbidden, "forbidden", http.StatusForbidden},
	{ErrNotFound, "not-found", http.StatusNotFound},
	{conntrack.ErrNotFound, "not-found", http.StatusNotFound},
	{conntrack.ErrExpectMaster, "not-found", http.StatusNotFound},
	{conntrack.ErrExpectAbsent, "not-found", http.StatusNotFound},
	{ErrGone, "gone", http.StatusGone},
	{ErrExists, "exists", http.StatusConflict},
	{conntrack.ErrExpectClash, "exists", http.StatusConflict},
	{conntrack.ErrExists, "exists", http.StatusConflict},
	{ErrRefused, "refused", http.StatusUnprocessableEntity},
	{conntrack.ErrExpectFull, "refused", http.StatusUnprocessableEntity},
	{conntrack.ErrNoMemory, "refused", http.StatusUnprocessableEntity},
	{errBadRequest, "bad-request", http.StatusBadRequest},
	{ErrNotRunning, "not-running", http.StatusServiceUnavailable},
	{errBusy, "busy", http.StatusServiceUnavailable},
	{errInternal, "internal", http.StatusInternalServerError},
}

// kindOf returns what err is; an unknown error is internal.
func kindOf(err error) kind {
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k
		}
	}
	return kinds[len(kinds)-1]
}

// refuse answers with what err says, in the one shape that refusals have.
func refuse(w http.ResponseWriter, err error) {
	k := kindOf(err)
	writeJSON(w, k.status, failure{Error: err.Error(), Code: k.code})
}

// remoteError is an error of the gateway on this side of the socket: its own
// text, of the kind its code stands for.
type remoteError struct {
	text   string
	code   string
	status int
}

func (e remoteError) Error() string { return e.text }

// Is makes errors.Is work across the socket.
func (e remoteError) Is(target error) bool {
	for _, k := range kinds {
		if k.err == target && k.code == e.code {
			return true
		}
	}
	return false
}
