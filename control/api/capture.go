package api

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"example.com/culvert/control/pcapng"
)

const mediaTypeCapture = "application/x-pcapng"

// Stages of a frame in the name of its interface in a capture: "lan0 before".
const (
	stageBefore = " before"
	stageAfter  = " after"
)

// capture streams a pcapng file of packets before and after translation.
func (s *Server) capture(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	if !query.Has("rate") {
		query.Set("rate", "0")
	}
	q, err := parseWatch(query)
	if err != nil {
		return err
	}
	seen, err := s.backend.Watch(q)
	if err != nil {
		return err
	}
	defer seen.Close()
	w.Header().Set("Content-Type", mediaTypeCapture)
	c := &captureFile{to: w, snap: q.Snap}
	if c.pcap, err = pcapng.NewWriter(&c.buf, "culvert "+s.backend.Status().Version); err != nil {
		return err
	}
	watch(r, w, seen, &q, watcher{packet: c.packet, missed: c.missed, send: c.send})
	return nil
}

// captureFile is the capture that a request gets.
type captureFile struct {
	to   http.ResponseWriter
	buf  bytes.Buffer
	pcap *pcapng.Writer
	snap int

	interfaces []captureInterface
	lost       Missed
}

// captureInterface is an interface of the capture: one of the gateway, before or after.
type captureInterface struct {
	name string
	link pcapng.LinkType
}

func (c *captureFile) send() error {
	_, err := c.buf.WriteTo(c.to)
	return err
}

// number returns the interface of a frame, which it adds if it is new.
func (c *captureFile) number(f *CapturedFrame) (int, error) {
	want := captureInterface{f.Interface + stageBefore, f.Link}
	if f.Out {
		want.name = f.Interface + stageAfter
	}
	if i := slices.Index(c.interfaces, want); i >= 0 {
		return i, nil
	}
	c.interfaces = append(c.interfaces, want)
	return c.pcap.Interface(want.name, want.link, c.snap)
}

// packet writes the frames of a packet, with its walk as comment.
func (c *captureFile) packet(p *TracedPacket, frames []CapturedFrame) error {
	comment := Comment(p)
	for i := range frames {
		f := &frames[i]
		n, err := c.number(f)
		if err != nil {
			return err
		}
		out := pcapng.Packet{Interface: n, Time: p.Time, Data: f.Data, Length: f.Length, Direction: pcapng.Inbound, Comment: comment}
		if f.Out {
			out.Direction = pcapng.Outbound
		}
		if f.Note != "" {
			out.Comment = f.Note + "\n" + comment
		}
		if err := c.pcap.Packet(&out); err != nil {
			return err
		}
	}
	if c.buf.Len() > pieceSize {
		return c.send()
	}
	return nil
}

// missed writes how many packets are not in the capture, as the statistics of its first
// interface: nobody knows where they would have been.
func (c *captureFile) missed(m Missed) error {
	c.lost.Unread += m.Unread
	c.lost.Beyond += m.Beyond
	if len(c.interfaces) == 0 {
		return nil
	}
	comment := fmt.Sprintf("%d packets of all interfaces were not read in time, %d were beyond the rate", c.lost.Unread, c.lost.Beyond)
	return c.pcap.Stats(0, time.Now(), c.lost.Unread+c.lost.Beyond, comment)
}

// Comment returns the walk of a packet as a few lines: the verdict, then its steps.
func Comment(p *TracedPacket) string {
	var b strings.Builder
	b.WriteString(p.Verdict)
	switch {
	case p.Reason != "":
		fmt.Fprintf(&b, ": %s (%s)", p.Reason, p.Advice)
	case p.Out != "":
		fmt.Fprintf(&b, " by %s as %s", p.Out, p.Leaves)
	}
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "\n%s: %s", s.Step, s.Text)
		for _, r := range s.Rules {
			fmt.Fprintf(&b, "\n  rule %v", r)
		}
	}
	if p.Helper != nil {
		b.WriteString("\n" + strings.TrimRight(p.Helper.String(), "\n"))
	}
	return b.String()
}
