package pcap

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

const defaultMTU = 65535

// Config describes a port.
type Config struct {
	Name string      // of the port
	In   string      // capture file to replay, "" for none: then Link says what kind the port is
	Out  string      // pcapng file to write sent frames to, replaced if it exists; "" for none
	Link packet.Link // ignored with In
	MAC  [6]byte     // of the gateway in the capture; zero: every unicast frame is for it
	MTU  int         // bytes of IP packet, default 65535
}

// source is a reader of either format. Frames are valid until the next call.
type source interface {
	ZeroCopyReadPacketData() ([]byte, gopacket.CaptureInfo, error)
	LinkType() layers.LinkType
}

// ngSource reads frames into memory of their own length: the reader's own buffer is
// as long as the file says a frame can be.
type ngSource struct{ *pcapgo.NgReader }

func (s ngSource) ZeroCopyReadPacketData() ([]byte, gopacket.CaptureInfo, error) {
	return s.ReadPacketData()
}

// Port is a capture file.
type Port struct {
	cfg   Config
	info  port.Info
	files []*os.File
	queue queue

	in  source
	err error // why in gives no more: io.EOF at the end of the file

	next     []byte // the frame after those received; memory of in
	nextInfo gopacket.CaptureInfo
	limit    time.Time // of Admit, zero for none

	mu  sync.Mutex // guards out and now: senders share them
	out *pcapgo.NgWriter
	now time.Time
}

var (
	_ port.Port  = (*Port)(nil)
	_ port.Queue = (*queue)(nil)
)

// Open opens the files of cfg.
func Open(cfg Config) (*Port, error) {
	if cfg.MTU <= 0 {
		cfg.MTU = defaultMTU
	}
	p := &Port{cfg: cfg, err: io.EOF}
	p.queue.port = p
	p.info = port.Info{
		Name: cfg.Name, Link: cfg.Link, MAC: cfg.MAC, MTU: cfg.MTU,
		GSO: true, Up: true, Driver: "pcap", NumQueues: 1,
	}
	err := p.openIn()
	if err == nil {
		err = p.openOut()
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Port) openIn() error {
	if p.cfg.In == "" {
		return nil
	}
	f, err := os.Open(p.cfg.In)
	if err != nil {
		return err
	}
	p.files = append(p.files, f)
	r := bufio.NewReaderSize(f, 1<<16)
	magic, err := r.Peek(4)
	if err != nil {
		return fmt.Errorf("%s: not a capture file: %w", p.cfg.In, err)
	}
	if p.in, err = newSource(f, r, binary.BigEndian.Uint32(magic)); err != nil {
		return fmt.Errorf("%s: not a capture file: %w", p.cfg.In, err)
	}
	switch t := p.in.LinkType(); t {
	case layers.LinkTypeEthernet:
		p.info.Link = packet.LinkEthernet
	case layers.LinkTypeRaw, layers.LinkTypeIPv4, layers.LinkTypeIPv6:
		p.info.Link = packet.LinkIP
	default:
		return fmt.Errorf("%s: link type %v is neither Ethernet nor raw IP", p.cfg.In, t)
	}
	p.err = nil
	p.advance()
	return nil
}

// newSource returns the reader of f, whose first bytes are in r.
func newSource(f *os.File, r io.Reader, magic uint32) (source, error) {
	if magic == blockSection {
		if err := checkBlocks(f); err != nil {
			return nil, err
		}
		var ng *pcapgo.NgReader
		err := guarded(func() (err error) {
			ng, err = pcapgo.NewNgReader(r, pcapgo.DefaultNgReaderOptions)
			return err
		})
		return ngSource{ng}, err
	}
	old, err := pcapgo.NewReader(r)
	if err != nil {
		return nil, err
	}
	old.SetSnaplen(maxFrame) // some tools write frames longer than they declare
	return old, nil
}

func (p *Port) openOut() error {
	if p.cfg.Out == "" {
		return nil
	}
	f, err := os.Create(p.cfg.Out)
	if err != nil {
		return err
	}
	p.files = append(p.files, f)
	t := layers.LinkTypeEthernet
	if p.info.Link == packet.LinkIP {
		t = layers.LinkTypeRaw
	}
	intf := pcapgo.NgInterface{Name: p.cfg.Name, LinkType: t, TimestampResolution: 9}
	if p.out, err = pcapgo.NewNgWriterInterface(f, intf, pcapgo.DefaultNgWriterOptions); err != nil {
		return fmt.Errorf("%s: %w", p.cfg.Out, err)
	}
	return nil
}

// advance makes next the frame that follows in the file, without those cut short.
func (p *Port) advance() {
	for p.err == nil {
		p.err = guarded(p.read)
		if p.err != nil {
			p.next = nil
			return
		}
		if p.nextInfo.CaptureLength == p.nextInfo.Length && len(p.next) >= p.shortest() {
			return
		}
		p.queue.truncated.Add(1)
	}
}

func (p *Port) read() (err error) {
	p.next, p.nextInfo, err = p.in.ZeroCopyReadPacketData()
	return err
}

// guarded makes an error of what f panics with: the readers divide and index by
// what a damaged file says.
func guarded(f func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("damaged capture file: %v", cause)
		}
	}()
	return f()
}

func (p *Port) shortest() int {
	if p.info.Link == packet.LinkEthernet {
		return port.EthernetHeader
	}
	return 1
}

// Next returns the time of the frame that Recv gives next. At the end of the file
// it returns io.EOF, before a damaged part the reader's error. Only the worker may call it.
func (p *Port) Next() (time.Time, error) {
	if p.err != nil {
		return time.Time{}, p.err
	}
	return p.nextInfo.Timestamp, nil
}

// Admit lets Recv give frames up to and including time t only; the zero time lifts
// the limit. Only the worker may call it.
func (p *Port) Admit(t time.Time) {
	p.limit = t
	p.setTime(t)
}

func (p *Port) setTime(t time.Time) {
	p.mu.Lock()
	if t.After(p.now) {
		p.now = t
	}
	p.mu.Unlock()
}

// Info implements port.Port.
func (p *Port) Info() port.Info { return p.info }

// Refresh implements port.Port; a file does not change.
func (p *Port) Refresh() (port.Info, error) { return p.info, nil }

// Queue implements port.Port.
func (p *Port) Queue(int) port.Queue { return &p.queue }

// NewSender implements port.Port.
func (p *Port) NewSender() (port.Sender, error) { return &sender{port: p}, nil }

// Close implements port.Port. It reports what the last writes could not.
func (p *Port) Close() error {
	var errs []error
	p.mu.Lock()
	if p.out != nil {
		errs = append(errs, p.out.Flush())
		p.out = nil
	}
	p.mu.Unlock()
	for _, f := range p.files {
		errs = append(errs, f.Close())
	}
	p.files = nil
	return errors.Join(errs...)
}
