package demo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"
)

const (
	downloadSize = 64 << 20 // bytes
	downloadPath = "/download"
	digestHeader = "X-Content-Sha256" // a trailer: known when everything is sent
	fromHeader   = "X-Seen-From"
)

func hostPort(a netip.Addr, port int) string {
	return net.JoinHostPort(a.String(), strconv.Itoa(port))
}

// serveWeb starts a web server on a host. It says hello and offers a download.
func (d *demo) serveWeb(host string, addr netip.Addr) error {
	ln, err := d.lab.Host(host).Listen("tcp", hostPort(addr, webPort))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(fromHeader, r.RemoteAddr)
		fmt.Fprintf(w, "hello from the %s, you are %s\n", host, r.RemoteAddr)
	})
	mux.HandleFunc(downloadPath, sendDownload)
	web := &http.Server{Handler: mux, ReadHeaderTimeout: stepTimeout}
	d.closers = append(d.closers, web.Close)
	d.wg.Go(func() { _ = web.Serve(ln) }) // ends with Close
	return nil
}

// sendDownload sends noise, and its digest after it.
func sendDownload(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Trailer", digestHeader)
	w.Header().Set(fromHeader, r.RemoteAddr)
	digest := sha256.New()
	noise := rand.NewChaCha8([32]byte{1})
	if _, err := io.Copy(io.MultiWriter(w, digest), io.LimitReader(noise, downloadSize)); err != nil {
		return // the client sees a body that ends early
	}
	w.Header().Set(digestHeader, hex.EncodeToString(digest.Sum(nil)))
}

// get fetches a URL from a host, gives the body to read, and returns the
// response with its trailers and the flow that it came by.
func (d *demo) get(ctx context.Context, from, address, path string, read func(io.Reader) error) (*http.Response, string, error) {
	var conn net.Conn
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (_ net.Conn, err error) {
			conn, err = d.lab.Host(from).Dial(ctx, network, address)
			return conn, err
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return nil, "", err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("%s%s: %s", address, path, response.Status)
	}
	flow, err := d.flowOf(ctx, "tcp", localAddr(conn))
	if err != nil {
		return nil, "", err
	}
	return response, flow, read(response.Body)
}

// download fetches noise from the server and compares digests.
func (d *demo) download(ctx context.Context, f family) (result, error) {
	digest := sha256.New()
	var size int64
	var took time.Duration
	response, flow, err := d.get(ctx, client, hostPort(f.server.Addr(), webPort), downloadPath, func(body io.Reader) (err error) {
		start := time.Now()
		size, err = io.Copy(digest, body)
		took = time.Since(start)
		return err
	})
	if err != nil {
		return result{}, err
	}
	received, sent := hex.EncodeToString(digest.Sum(nil)), response.Trailer.Get(digestHeader)
	if size != downloadSize || received != sent {
		return result{}, fmt.Errorf("%d bytes with SHA-256 %s, want %d with %s", size, received, downloadSize, sent)
	}
	if err := checkSeen(response, f.seen); err != nil {
		return result{}, err
	}
	return result{
		text:  fmt.Sprintf("%d MiB in %v, the server saw %s", size>>20, took.Round(time.Millisecond), response.Header.Get(fromHeader)),
		lines: []string{"SHA-256 sent     " + sent, "SHA-256 received " + received, flow},
	}, nil
}

// checkSeen holds the address that a web server saw against the one it should see.
func checkSeen(r *http.Response, want netip.Addr) error {
	got, err := netip.ParseAddrPort(r.Header.Get(fromHeader))
	if err == nil && got.Addr() != want {
		err = fmt.Errorf("the other end saw %s, want %s", got.Addr(), want)
	}
	return err
}

// inbound reaches the client's web server from outside through the forwarded port.
func (d *demo) inbound(ctx context.Context, f family) (result, error) {
	response, flow, err := d.get(ctx, server, hostPort(f.outside.Addr(), forwardedPort), "/", func(body io.Reader) error {
		_, err := io.Copy(io.Discard, body)
		return err
	})
	if err != nil {
		return result{}, err
	}
	if err := checkSeen(response, f.server.Addr()); err != nil {
		return result{}, err
	}
	return result{
		text:  fmt.Sprintf("%s reached the client's port %d from outside", hostPort(f.outside.Addr(), forwardedPort), webPort),
		lines: []string{flow},
	}, nil
}

// greeting starts the answer of the gateway's own service.
const greeting = "hello from the gateway itself"

// greet is the gateway's own service: it says who it is and whom it sees.
func greet(c net.Conn) {
	fmt.Fprintf(c, "%s, you are %s\n", greeting, c.RemoteAddr())
}

// redirected connects to a port of the server that the gateway answers itself.
func (d *demo) redirected(ctx context.Context, f family) (result, error) {
	c, err := d.lab.Host(client).Dial(ctx, "tcp", hostPort(f.server.Addr(), redirectPort))
	if err != nil {
		return result{}, err
	}
	defer c.Close()
	defer bound(ctx, c)()
	text, err := io.ReadAll(c)
	if err != nil {
		return result{}, err
	}
	want := fmt.Sprintf("%s, you are %s\n", greeting, c.LocalAddr())
	if string(text) != want {
		return result{}, fmt.Errorf("the answer is %q, want %q", text, want)
	}
	flow, err := d.flowOf(ctx, "tcp", localAddr(c))
	return result{
		text:  fmt.Sprintf("a connection to %s was answered by the gateway's own port %d", c.RemoteAddr(), servicePort),
		lines: []string{flow},
	}, err
}
