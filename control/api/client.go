package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// pollInterval is how often WaitReady asks.
const pollInterval = 20 * time.Millisecond

// Client asks one gateway. It is safe for concurrent use.
type Client struct {
	http  http.Client
	base  string // of URLs
	token string // empty: none
	err   error  // why there can be no request
}

// NewClient returns a client for the gateway whose control socket is at path.
func NewClient(path string) *Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, path) },
	}
	return &Client{http: http.Client{Transport: transport}, base: "http://culvert"}
}

// Remote says how to reach a gateway by its TCP listener.
type Remote struct {
	URL       string // https://HOST:PORT
	TokenFile string // path of the file with the token
	CAFile    string // path of the certificates to trust, in PEM; empty: the system's
}

// NewRemoteClient returns a client for the gateway whose TCP listener is at r. What is
// wrong with r is the error of each request.
func NewRemoteClient(r Remote) *Client {
	c := &Client{base: strings.TrimSuffix(r.URL, "/")}
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	switch at, err := url.Parse(r.URL); {
	case err != nil || at.Scheme != "https" || at.Host == "" || strings.Trim(at.Path, "/") != "":
		c.err = fmt.Errorf("%q: want https://HOST:PORT", r.URL)
		return c
	case r.TokenFile == "":
		c.err = fmt.Errorf("%s wants a token: name its file with --token-file or CULVERT_TOKEN_FILE", r.URL)
		return c
	}
	token, err := readToken(r.TokenFile)
	if err != nil {
		c.err = fmt.Errorf("token: %w", err)
		return c
	}
	if r.CAFile != "" {
		text, err := os.ReadFile(r.CAFile)
		if err != nil {
			c.err = fmt.Errorf("authority: %w", err)
			return c
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			c.err = fmt.Errorf("authority: %s has no certificate in PEM", r.CAFile)
			return c
		}
	}
	c.token = string(token)
	c.http.Transport = &http.Transport{TLSClientConfig: config, TLSHandshakeTimeout: headerTime}
	return c
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status returns the health of the gateway.
func (c *Client) Status(ctx context.Context) (st Status, err error) {
	return st, c.get(ctx, "/v1/status", nil, &st)
}

// WaitReady waits until the gateway is there and ready, or ctx ends. The error
// then says what it was waiting for.
func (c *Client) WaitReady(ctx context.Context) (Status, error) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var why error // the gateway is not ready yet
	for {
		st, err := c.Status(ctx)
		switch {
		case err == nil && st.Ready:
			return st, nil
		case err == nil:
			why = fmt.Errorf("not ready: %s", strings.Join(st.Waiting, "; "))
		case errors.Is(err, ErrNotRunning):
			why = err
		case ctx.Err() == nil:
			return st, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return st, cmp.Or(why, err)
		}
	}
}

// Rules returns the rules in force.
func (c *Client) Rules(ctx context.Context) (rules []Rule, err error) {
	return rules, c.get(ctx, "/v1/rules", nil, &rules)
}

// RuleCounters returns the counters that rules name.
func (c *Client) RuleCounters(ctx context.Context) (counters []RuleCounter, err error) {
	return counters, c.get(ctx, "/v1/rules/counters", nil, &counters)
}

// PortMappings returns the ports that hosts have at their request.
func (c *Client) PortMappings(ctx context.Context) (all []PortMapping, err error) {
	return all, c.get(ctx, "/v1/ports/requested", nil, &all)
}

// Config returns the configuration in force.
func (c *Client) Config(ctx context.Context) (cfg Config, err error) {
	return cfg, c.get(ctx, "/v1/config", nil, &cfg)
}

// Counters returns the drop counters.
func (c *Client) Counters(ctx context.Context) (counters []Counter, err error) {
	return counters, c.get(ctx, "/v1/counters", nil, &counters)
}

// Helpers returns what each helper did.
func (c *Client) Helpers(ctx context.Context) (all []Helper, err error) {
	return all, c.get(ctx, "/v1/helpers", nil, &all)
}

// Log returns the levels of the gateway's own log.
func (c *Client) Log(ctx context.Context) (l Log, err error) {
	return l, c.get(ctx, "/v1/log", nil, &l)
}

// SetLog changes levels until the next reload and returns what they are then.
func (c *Client) SetLog(ctx context.Context, change LogChange) (l Log, err error) {
	return l, c.call(ctx, http.MethodPost, "/v1/log", change, &l)
}

// Exports returns flow logs and IPFIX collectors, and how they fare.
func (c *Client) Exports(ctx context.Context) (all []Export, err error) {
	return all, c.get(ctx, "/v1/exports", nil, &all)
}

// Explain says what would become of a packet; see ParseProbe.
func (c *Client) Explain(ctx context.Context, packet string) (x Explanation, err error) {
	return x, c.get(ctx, "/v1/explain", url.Values{"packet": {packet}}, &x)
}

// Trace returns what becomes of packets as lines, each a TracedPacket; it ends as q says,
// or with ctx or the gateway. The caller closes it.
func (c *Client) Trace(ctx context.Context, q WatchRequest) (io.ReadCloser, error) {
	q.Snap = 0
	return c.stream(ctx, "/v1/trace", q.query())
}

// Capture returns packets before and after translation as a pcapng file; it ends as q
// says, or with ctx or the gateway. The caller closes it.
func (c *Client) Capture(ctx context.Context, q WatchRequest) (io.ReadCloser, error) {
	return c.stream(ctx, "/v1/capture", q.query())
}

// Check has the gateway verify the invariants of its table of flows.
func (c *Client) Check(ctx context.Context) (result CheckResult, err error) {
	return result, c.get(ctx, "/v1/check", nil, &result)
}

// CountFlows returns how many flows there are.
func (c *Client) CountFlows(ctx context.Context) (int, error) {
	var n Count
	err := c.get(ctx, "/v1/flows/count", nil, &n)
	return n.Flows, err
}

// FlushFlows ends every flow and returns how many there were.
func (c *Client) FlushFlows(ctx context.Context) (int, error) {
	var n Count
	err := c.call(ctx, http.MethodDelete, "/v1/flows", nil, &n)
	return n.Flows, err
}

// Flows returns the table as lines; the caller closes it.
func (c *Client) Flows(ctx context.Context, f Format) (io.ReadCloser, error) {
	return c.stream(ctx, "/v1/flows", f.query())
}

// InsertFlow makes a flow. The error is ErrExists when one of its tuples or its port is
// taken, ErrRefused when there is no room, ErrInvalid when there can be no such flow.
func (c *Client) InsertFlow(ctx context.Context, x NewFlow) (f Flow, err error) {
	return f, c.call(ctx, http.MethodPost, "/v1/flows", x, &f)
}

// DeleteFlows ends the flows that f wants and returns them as lines; the caller
// closes it.
func (c *Client) DeleteFlows(ctx context.Context, f Format) (io.ReadCloser, error) {
	return c.do(ctx, http.MethodPost, "/v1/flows/delete"+encode(f.query()), nil)
}

// UpdateFlows changes the flows that f wants, except those that are so already, and
// returns them as lines; the caller closes it.
func (c *Client) UpdateFlows(ctx context.Context, u FlowUpdate, f Format) (io.ReadCloser, error) {
	b, err := json.Marshal(u)
	if err != nil {
		return nil, err
	}
	return c.do(ctx, http.MethodPost, "/v1/flows/update"+encode(f.query()), bytes.NewReader(b))
}

// ZeroFlows is Flows, and sets the counters of what it lists to zero in the same moment.
func (c *Client) ZeroFlows(ctx context.Context, f Format) (io.ReadCloser, error) {
	return c.do(ctx, http.MethodPost, "/v1/flows/zero"+encode(f.query()), nil)
}

// FlowStats returns the counters of conntrack -S.
func (c *Client) FlowStats(ctx context.Context) (st FlowStats, err error) {
	return st, c.get(ctx, "/v1/flows/stats", nil, &st)
}

// Flow returns the flow with tuple k in either direction as a line, or gives
// ErrNotFound. The caller closes it.
func (c *Client) Flow(ctx context.Context, k Tuple, f Format) (io.ReadCloser, error) {
	b, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	return c.do(ctx, http.MethodPost, "/v1/flows/get"+encode(f.query()), bytes.NewReader(b))
}

// Events returns the stream of events as lines; it ends with ctx or the gateway.
// The caller closes it.
func (c *Client) Events(ctx context.Context, f Format) (io.ReadCloser, error) {
	return c.stream(ctx, "/v1/events", f.query())
}

// Follow says where a stream of events begins, and whose events it has. The zero
// Follow is those of flows from now on.
type Follow struct {
	About    About
	Snapshot bool   // begin with what there is
	Cursor   string // go on behind an event; see Event.Cursor
}

// Follow is Events from anywhere. The error is ErrGone when nobody knows what followed
// the cursor.
func (c *Client) Follow(ctx context.Context, f Format, where Follow) (io.ReadCloser, error) {
	q := f.query()
	if where.About != "" {
		q.Set("about", string(where.About))
	}
	if where.Snapshot {
		q.Set("snapshot", "true")
	}
	if where.Cursor != "" {
		q.Set("cursor", where.Cursor)
	}
	return c.stream(ctx, "/v1/events", q)
}

// Expectations returns the expectations as lines; the caller closes it. A filter may
// name original, zone and helper.
func (c *Client) Expectations(ctx context.Context, f Format) (io.ReadCloser, error) {
	return c.stream(ctx, "/v1/expectations", f.query())
}

// Expectation returns the expectation with a tuple as a line, or gives ErrNotFound. The
// caller closes it.
func (c *Client) Expectation(ctx context.Context, k Tuple, f Format) (io.ReadCloser, error) {
	b, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	return c.do(ctx, http.MethodPost, "/v1/expectations/get"+encode(f.query()), bytes.NewReader(b))
}

// ExpectEvents returns the stream of the events of expectations as lines; it
// ends with ctx or the gateway. The caller closes it. A filter is as of Expectations.
func (c *Client) ExpectEvents(ctx context.Context, f Format) (io.ReadCloser, error) {
	return c.stream(ctx, "/v1/expectations/events", f.query())
}

// CountExpectations returns how many expectations there are.
func (c *Client) CountExpectations(ctx context.Context) (int, error) {
	var n ExpectCount
	err := c.get(ctx, "/v1/expectations/count", nil, &n)
	return n.Expectations, err
}

// FlushExpectations ends every expectation and returns how many there were.
func (c *Client) FlushExpectations(ctx context.Context) (int, error) {
	var n ExpectCount
	err := c.call(ctx, http.MethodDelete, "/v1/expectations", nil, &n)
	return n.Expectations, err
}

// CreateExpectation announces a flow. The error is ErrNotFound without its
// master, ErrExists when another expectation is in the way, ErrRefused when there
// is no room.
func (c *Client) CreateExpectation(ctx context.Context, x Expectation) error {
	return c.call(ctx, http.MethodPost, "/v1/expectations", x, nil)
}

// DeleteExpectation ends the expectation with a tuple, or gives ErrNotFound.
func (c *Client) DeleteExpectation(ctx context.Context, k Tuple) error {
	return c.call(ctx, http.MethodPost, "/v1/expectations/delete", k, nil)
}

// Reload has the configuration read again. When it returns without an error, new
// packets meet it.
func (c *Client) Reload(ctx context.Context, r ReloadRequest) (result ReloadResult, err error) {
	return result, c.call(ctx, http.MethodPost, "/v1/reload", r, &result)
}

// AddInterface adds an interface.
func (c *Client) AddInterface(ctx context.Context, spec InterfaceSpec) error {
	return c.call(ctx, http.MethodPost, "/v1/interfaces", spec, nil)
}

// RemoveInterface removes an interface.
func (c *Client) RemoveInterface(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/interfaces/"+url.PathEscape(name), nil, nil)
}

func (c *Client) get(ctx context.Context, path string, query url.Values, into any) error {
	body, err := c.stream(ctx, path, query)
	if err != nil {
		return err
	}
	defer body.Close()
	return decode(body, into)
}

// stream returns the body of a successful GET.
func (c *Client) stream(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	return c.do(ctx, http.MethodGet, path+encode(query), nil)
}

func encode(query url.Values) string {
	if len(query) == 0 {
		return ""
	}
	return "?" + query.Encode()
}

// call sends in, if it is not nil, and decodes the answer into out, likewise.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var request io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		request = bytes.NewReader(b)
	}
	body, err := c.do(ctx, method, path, request)
	if err != nil {
		return err
	}
	defer body.Close()
	if out == nil {
		return nil
	}
	return decode(body, out)
}

func decode(body io.Reader, into any) error {
	if err := json.NewDecoder(body).Decode(into); err != nil {
		return fmt.Errorf("answer of the gateway: %w", err)
	}
	return nil
}

// do returns the body of the answer, or the error the gateway gave.
func (c *Client) do(ctx context.Context, method, path string, body io.Reader) (io.ReadCloser, error) {
	return c.send(ctx, method, path, mediaTypeJSON, body)
}

// send is do with a body of another media type.
func (c *Client) send(ctx context.Context, method, path, media string, body io.Reader) (io.ReadCloser, error) {
	if c.err != nil {
		return nil, c.err
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	if body != nil {
		request.Header.Set("Content-Type", media)
	}
	answer, err := c.http.Do(request)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // the URL is made up: the socket's path is in the cause
		}
		return nil, c.advise(err)
	}
	if answer.StatusCode < http.StatusBadRequest {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	var f failure
	if err := json.NewDecoder(answer.Body).Decode(&f); err != nil || f.Error == "" {
		return nil, fmt.Errorf("%s %s: the gateway answered %s", method, path, answer.Status)
	}
	return nil, remoteError{text: f.Error, code: f.Code, status: answer.StatusCode}
}

// advise adds to an error of a connection what to do about it.
func (c *Client) advise(err error) error {
	var unknown x509.UnknownAuthorityError
	switch {
	case c.token == "":
		return err // the socket's are explained
	case errors.As(err, &unknown):
		return fmt.Errorf("%s: %w (name the file of its authority with --ca-file or CULVERT_CA_FILE)", c.base, err)
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("no gateway answers at %s: %w (it needs api.listen): %w", c.base, ErrNotRunning, err)
	}
	return fmt.Errorf("%s: %w", c.base, err)
}
