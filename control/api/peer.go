package api

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"

	"golang.org/x/sys/unix"
)

// peerKey is where the context of a request has the user at the other end of the
// control socket. It is absent for the listener.
type peerKey struct{}

// withPeer notes who has connected.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if b, ok := c.(*counted); ok {
		c = b.Conn
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var peer *unix.Ucred
	if raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, peer.Uid)
}

// mayNameFile reports an error that wraps ErrForbidden if whoever asks may not have the
// gateway read or run a file of his choice: he would have what its user has, and more
// than the socket's group or a token are for.
func mayNameFile(r *http.Request, name string) error {
	uid, known := r.Context().Value(peerKey{}).(uint32)
	if name == "" || known && (uid == 0 || uid == uint32(os.Geteuid())) {
		return nil
	}
	return fmt.Errorf("%w: only root and the gateway's own user may name a file, on the control socket; without one the gateway takes its own", ErrForbidden)
}
