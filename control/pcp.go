package control

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"example.com/culvert/control/api"
	"example.com/culvert/control/logging"
	"example.com/culvert/control/metrics"
	"example.com/culvert/control/pcp"
	"example.com/culvert/dataplane"
	"example.com/culvert/rules"
	"example.com/culvert/rules/config"
)

// portService is the service that gives hosts ports at their request (package pcp),
// with a socket for each address of the gateway in the areas that it serves.
type portService struct {
	server  atomic.Pointer[pcp.Server] // nil until it is first asked for
	sockets map[netip.Addr]net.PacketConn
}

// requests says whether the engine has to expect requested ports.
func requests(cfg *config.Config) dataplane.Requests {
	if cfg.PCP.Enabled {
		return dataplane.TakeRequests
	}
	return dataplane.NoRequests
}

func pcpTerms(c *config.PCP, l *config.Limits) pcp.Terms {
	t := pcp.Terms{LifetimeMax: c.LifetimeMax, MaxPerClient: c.MaxPerClient, MaxRecords: l.RequestedPorts}
	if c.Enabled {
		t.Areas = c.Areas
	}
	return t
}

// servePorts has the service serve what p says. g.mu must be held.
func (g *Gateway) servePorts(p *plan) {
	s := &g.portService
	c := &p.cfg.PCP
	server := s.server.Load()
	if server == nil {
		if !c.Enabled {
			return
		}
		server = pcp.NewServer(g.engine, logging.For(g.log, logging.PCP), pcpTerms(c, &g.cfg.Limits), time.Now())
		s.server.Store(server)
		s.sockets = make(map[netip.Addr]net.PacketConn)
		g.tasks.Go(func() { g.expirePorts(server) })
	}
	server.Renew(pcpTerms(c, &g.cfg.Limits), time.Now())
	want := make(map[netip.Addr]struct{})
	for i := range p.links {
		l := &p.links[i]
		for _, a := range l.addresses {
			if c.Enabled && slices.Contains(c.Areas, l.conf.Area) && !a.Addr().IsLinkLocalUnicast() {
				want[a.Addr()] = struct{}{}
			}
		}
	}
	for a, socket := range s.sockets {
		if _, wanted := want[a]; !wanted {
			_ = socket.Close() // nothing is queued
			delete(s.sockets, a)
		}
	}
	for a := range want {
		if s.sockets[a] != nil {
			continue
		}
		socket, err := g.host.ListenPacket("udp", netip.AddrPortFrom(a, pcp.Port).String())
		if err != nil {
			logging.For(g.log, logging.PCP).Error("hosts can not ask for ports", "address", a.String(), "error", err)
			continue
		}
		s.sockets[a] = socket
		g.tasks.Go(func() { g.answerPorts(server, a, socket) })
	}
}

// answerPorts serves one socket until it is closed.
func (g *Gateway) answerPorts(server *pcp.Server, a netip.Addr, socket net.PacketConn) {
	err := server.Serve(socket)
	g.mu.Lock()
	closed := g.portService.sockets[a] != socket
	g.mu.Unlock()
	if !closed && !errors.Is(err, net.ErrClosed) {
		logging.For(g.log, logging.PCP).Error("hosts can not ask for ports any more", "address", a.String(), "error", err)
	}
}

// expirePorts ends what hosts have not renewed, until the gateway is taken down.
func (g *Gateway) expirePorts(server *pcp.Server) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			server.Expire(now)
		case <-g.ending:
			return
		}
	}
}

// close ends the service. The engine must still be there. What hosts have stays theirs
// when another process goes on with it.
func (s *portService) close(left bool) {
	for a, socket := range s.sockets {
		_ = socket.Close() // nothing is queued
		delete(s.sockets, a)
	}
	if server := s.server.Load(); server != nil && !left {
		server.Close()
	}
}

// PortMappings returns the ports that hosts have at their request.
func (g *Gateway) PortMappings() []api.PortMapping {
	out := []api.PortMapping{}
	if s := g.portService.server.Load(); s != nil {
		for _, m := range s.Mappings() {
			out = append(out, api.PortMapping{Protocol: rules.ProtoName(m.Proto), Inside: m.Inside.String(), External: m.External.String(), Until: m.Until})
		}
	}
	return out
}

// PortRequests returns what became of the requests for ports.
func (g *Gateway) PortRequests() (r metrics.PortRequests) {
	if s := g.portService.server.Load(); s != nil {
		var results pcp.Results
		r.Mappings, results = s.Stats()
		r.Results = make(map[string]uint64, len(results))
		for why, n := range results {
			r.Results[pcp.Result(why).String()] = n
		}
	}
	return r
}
