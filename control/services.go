package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"example.com/culvert/control/api"
	"example.com/culvert/control/logging"
	"example.com/culvert/control/metrics"
	"example.com/culvert/control/notify"
	"example.com/culvert/control/upgrade"
	"example.com/culvert/rules/config"
)

// services is what other processes talk to.
type services struct {
	control net.Listener // nil: no control socket
	remote  net.Listener // nil: no TCP listener of the control interface
	scrape  net.Listener // nil: no Prometheus listener
	api     *api.Server
	metrics *http.Server

	credentials *api.Credentials   // of remote, when it began
	beat        context.CancelFunc // ends the watchdog
}

// socketPath returns where the control socket is, empty if there is none.
func (g *Gateway) socketPath() string {
	switch {
	case g.opts.Socket == NoSocket:
		return ""
	case g.opts.Socket != "":
		return g.opts.Socket
	case g.cfg.Gateway.Socket != "":
		return g.cfg.Gateway.Socket
	}
	return api.DefaultSocket(g.cfg.Gateway.Name)
}

// listen opens the sockets, without answering on them yet. The Prometheus
// listener is in the gateway's own namespace.
func (g *Gateway) listen() (err error) {
	if path := g.socketPath(); path != "" {
		if g.services.control, err = g.listenControl(path); err != nil {
			return err
		}
	}
	if g.services.scrape, err = g.listenTCP(upgrade.SocketMetrics, g.cfg.Gateway.Metrics); err != nil {
		return fmt.Errorf("gateway.metrics: %w", err)
	}
	if g.services.credentials, err = credentials(&g.cfg.API); err != nil {
		return err
	}
	if g.services.remote, err = g.listenTCP(upgrade.SocketRemote, g.cfg.API.Listen); err != nil {
		return fmt.Errorf("api.listen: %w", err)
	}
	return nil
}

// listenControl opens the control socket.
func (g *Gateway) listenControl(path string) (net.Listener, error) {
	if l, err := g.heir.socket(upgrade.SocketControl, path); l != nil || err != nil {
		return l, err
	}
	l, err := api.Listen(path, g.cfg.API.Group)
	if err != nil {
		return nil, err
	}
	return api.NewPausable(l), nil
}

// listenTCP opens a listener in the gateway's own namespace; none without an address.
func (g *Gateway) listenTCP(role, address string) (l net.Listener, err error) {
	if address == "" {
		return nil, nil
	}
	if l, err := g.heir.socket(role, address); l != nil || err != nil {
		return l, err
	}
	err = g.own.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		return nil, err
	}
	return api.NewPausable(l), nil
}

// ControlRefused returns how many connections to the control interface were beyond a
// bound, and how many requests to its TCP listener had no token or a wrong one.
func (g *Gateway) ControlRefused() (connections, unauthorized uint64) {
	if s := g.server.Load(); s != nil {
		return s.Refused()
	}
	return 0, 0
}

// credentials reads what the TCP listener of a configuration needs; nil: it has none.
func credentials(c *config.API) (*api.Credentials, error) {
	if c.Listen == "" {
		return nil, nil
	}
	return api.LoadCredentials(c.TLSCert, c.TLSKey, c.TokenFile)
}

// useCredentials has the TCP listener use what credentials has read.
func (g *Gateway) useCredentials(c *api.Credentials) {
	if c == nil || g.services.api == nil {
		return
	}
	if at, over := c.Expired(time.Now()); over {
		g.log.Warn("the certificate of the control interface has expired: clients refuse it", "file", g.cfg.API.TLSCert, "at", at)
	}
	g.services.api.SetCredentials(c)
}

// serve answers on what listen opened. g.mu must be held.
func (g *Gateway) serve() {
	s := &g.services
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.NewCollector(g), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	scrape := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	if s.control != nil || s.remote != nil {
		s.api = api.NewServer(g, logging.For(g.log, logging.API), map[string]http.Handler{"GET /metrics": scrape})
		s.api.MaxLocal = g.cfg.Limits.SocketConnections
		g.server.Store(s.api)
	}
	if s.control != nil {
		g.run("control socket", func() error { return s.api.Serve(s.control) })
	}
	if s.remote != nil {
		g.useCredentials(s.credentials)
		limit := g.cfg.API.MaxConnections
		g.run("control listener", func() error { return s.api.ServeTLS(s.remote, limit) })
	}
	if s.scrape != nil {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", scrape)
		s.metrics = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
		g.run("metrics", func() error {
			if err := s.metrics.Serve(s.scrape); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	if interval := notify.WatchdogInterval(); interval > 0 {
		var ctx context.Context
		ctx, s.beat = context.WithCancel(context.Background())
		g.tasks.Go(func() { g.watchdog(ctx, interval) })
	}
}

// run keeps a server going in the background and logs how it failed.
func (g *Gateway) run(what string, serve func() error) {
	g.tasks.Go(func() {
		if err := serve(); err != nil {
			g.log.Error(what+" ended", "error", err)
		}
	})
}

// close ends the servers and listeners; requests have until ctx ends.
func (s *services) close(ctx context.Context) error {
	var errs []error
	if s.beat != nil {
		s.beat()
	}
	if s.metrics != nil {
		errs = append(errs, s.metrics.Close()) // a scrape is not worth waiting for
	} else if s.scrape != nil {
		errs = append(errs, s.scrape.Close())
	}
	if s.api != nil {
		errs = append(errs, s.api.Shutdown(ctx))
		return errors.Join(errs...)
	}
	if s.control != nil {
		errs = append(errs, s.control.Close())
	}
	if s.remote != nil {
		errs = append(errs, s.remote.Close())
	}
	return errors.Join(errs...)
}
