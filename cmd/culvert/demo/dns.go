package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// zone is what the demo's name server knows.
var zone = []struct {
	name string
	addr netip.Addr
}{
	{"server.example.org.", v4.server.Addr()},
	{"server.example.org.", v6.server.Addr()},
	{"gateway.example.org.", v4.outside.Addr()},
	{"gateway.example.org.", v6.outside.Addr()},
}

// serveDNS starts the name server of one family on the server.
func (d *demo) serveDNS(f family) error {
	c, err := d.lab.Host(server).ListenPacket("udp", hostPort(f.server.Addr(), dnsPort))
	if err != nil {
		return err
	}
	d.closers = append(d.closers, c.Close)
	d.wg.Go(func() {
		buf := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // an ICMP error for an earlier answer
			}
			if reply, ok := answer(buf[:n]); ok {
				_, _ = c.WriteTo(reply, from) // a client that is gone asks again or not
			}
		}
	})
	return nil
}

// answer makes the reply to a query from zone.
func answer(query []byte) ([]byte, bool) {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || m.Response || len(m.Questions) != 1 {
		return nil, false
	}
	q := m.Questions[0]
	m.Response, m.Authoritative, m.RCode = true, true, dnsmessage.RCodeNameError
	m.Answers, m.Authorities, m.Additionals = nil, nil, nil
	for _, entry := range zone {
		if !strings.EqualFold(entry.name, q.Name.String()) {
			continue
		}
		m.RCode = dnsmessage.RCodeSuccess
		header := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60}
		switch {
		case q.Type == dnsmessage.TypeA && entry.addr.Is4():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: entry.addr.As4()}})
		case q.Type == dnsmessage.TypeAAAA && entry.addr.Is6():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: entry.addr.As16()}})
		}
	}
	reply, err := m.Pack()
	return reply, err == nil
}

// lookups asks for every name of the zone, and for one that does not exist.
func (d *demo) lookups(ctx context.Context, f family) (result, error) {
	c, err := d.lab.Host(client).Dial(ctx, "udp", hostPort(f.server.Addr(), dnsPort))
	if err != nil {
		return result{}, err
	}
	defer c.Close()
	defer bound(ctx, c)()
	for i, entry := range zone {
		kind := dnsmessage.TypeA
		if entry.addr.Is6() {
			kind = dnsmessage.TypeAAAA
		}
		got, err := lookup(c, uint16(i+1), entry.name, kind)
		if err != nil {
			return result{}, fmt.Errorf("%s %v: %w", entry.name, kind, err)
		}
		if len(got) != 1 || got[0] != entry.addr {
			return result{}, fmt.Errorf("%s %v is %v, want %s", entry.name, kind, got, entry.addr)
		}
	}
	const nobody = "nobody.example.org."
	if got, err := lookup(c, uint16(len(zone)+1), nobody, dnsmessage.TypeA); err != nil || len(got) > 0 {
		return result{}, fmt.Errorf("%s is %v, %w, want no such name", nobody, got, err)
	}
	flow, err := d.flowOf(ctx, "udp", localAddr(c))
	return result{
		text:  fmt.Sprintf("%d queries answered, %s is %s and %s", len(zone)+1, zone[0].name, zone[0].addr, zone[1].addr),
		lines: []string{flow},
	}, err
}

// lookup asks one question and returns the addresses of the answer.
func lookup(c net.Conn, id uint16, name string, kind dnsmessage.Type) ([]netip.Addr, error) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: kind, Class: dnsmessage.ClassINET}},
	}
	wire, err := m.Pack()
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(wire); err != nil {
		return nil, err
	}
	buf := make([]byte, 512)
	for {
		size, err := c.Read(buf)
		if err != nil {
			return nil, fmt.Errorf("no answer: %w", err)
		}
		var reply dnsmessage.Message
		if reply.Unpack(buf[:size]) != nil || reply.ID != id {
			continue
		}
		var addrs []netip.Addr
		for _, a := range reply.Answers {
			switch body := a.Body.(type) {
			case *dnsmessage.AResource:
				addrs = append(addrs, netip.AddrFrom4(body.A))
			case *dnsmessage.AAAAResource:
				addrs = append(addrs, netip.AddrFrom16(body.AAAA))
			}
		}
		return addrs, nil
	}
}
