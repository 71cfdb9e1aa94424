package api

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// Credentials are what the TCP listener shows to its clients and wants of them.
// Immutable.
type Credentials struct {
	certificate tls.Certificate
	token       [sha256.Size]byte // its hash: what is compared has one length
}

// Bounds of a token's length, characters.
const (
	leastToken = 16
	mostToken  = 1024
)

// LoadCredentials reads a certificate, its key and a token. Errors name the key of the
// configuration and the file, and never what is in it.
func LoadCredentials(certFile, keyFile, tokenFile string) (*Credentials, error) {
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("api.tls_cert: %w", err)
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("api.tls_key: %w", err)
	}
	c := new(Credentials)
	if c.certificate, err = tls.X509KeyPair(cert, key); err != nil {
		return nil, fmt.Errorf("api.tls_cert %s, api.tls_key %s: %w", certFile, keyFile, err)
	}
	token, err := readToken(tokenFile)
	if err != nil {
		return nil, fmt.Errorf("api.token_file: %w", err)
	}
	c.token = sha256.Sum256(token)
	return c, nil
}

// Expired returns when the certificate ended, or false while it is good.
func (c *Credentials) Expired(now time.Time) (time.Time, bool) {
	return c.certificate.Leaf.NotAfter, now.After(c.certificate.Leaf.NotAfter)
}

// readToken reads a token, without the blanks around it.
func readToken(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s has mode %o, so that everybody knows it: chmod o-rwx, and choose another token", path, info.Mode().Perm())
	}
	token, err := io.ReadAll(io.LimitReader(f, mostToken+2))
	if err != nil {
		return nil, err
	}
	token = bytes.TrimSpace(token)
	if len(token) < leastToken || len(token) > mostToken || bytes.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("%s: want one word of %d to %d printable characters, as openssl rand -hex 32 makes", path, leastToken, mostToken)
	}
	return token, nil
}

// SetCredentials has the TCP listener use c from the next connection and request on.
func (s *Server) SetCredentials(c *Credentials) { s.credentials.Store(c) }

// ServeTLS answers on l, which is TCP, whoever knows the token, until Shutdown, which
// is no error. SetCredentials comes first. At most limit connections are open.
func (s *Server) ServeTLS(l net.Listener, limit int) error {
	bound := &bounded{Listener: l, limit: int64(limit), rate: newBucket(remoteRate, remoteBurst), refused: &s.refused}
	if err := s.remote.ServeTLS(bound, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("api.listen: %w", err)
	}
	return nil
}

// tlsConfig takes the certificate in force for each connection.
func (s *Server) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"http/1.1"}, // a request at a time, so that connections bound requests
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &s.credentials.Load().certificate, nil
		},
	}
}

// authorized lets only requests through that have the token. Whoever has not gets no
// second request on the connection.
func (s *Server) authorized(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got, want := sha256.Sum256([]byte(token)), s.credentials.Load().token
		if subtle.ConstantTimeCompare(got[:], want[:]) == 1 && strings.EqualFold(scheme, "Bearer") {
			next.ServeHTTP(w, r)
			return
		}
		s.unauthorized.Add(1)
		s.tellUnauthorized(r.RemoteAddr)
		w.Header().Set("WWW-Authenticate", `Bearer realm="culvert"`)
		w.Header().Set("Connection", "close")
		refuse(w, fmt.Errorf("%w: send the token that the gateway's api.token_file holds (Authorization: Bearer TOKEN)", ErrUnauthorized))
	})
}

// tellEvery is how often the log says that clients do not know the token.
const tellEvery = 10 * time.Second

func (s *Server) tellUnauthorized(from string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.toldAt) >= tellEvery {
		s.log.Warn("requests without the token were refused", "last", from, "in_all", s.unauthorized.Load())
		s.toldAt = now
	}
}

// Refused returns how many connections were beyond a bound, and how many requests had
// no token or a wrong one.
func (s *Server) Refused() (connections, unauthorized uint64) {
	return s.refused.Load(), s.unauthorized.Load()
}
