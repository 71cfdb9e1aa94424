package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/google/gopacket/layers"

	"example.com/culvert/conntrack/tuple"
)

func TestTCPOptionsAreRead(t *testing.T) {
	opt := func(kind layers.TCPOptionKind, data ...byte) layers.TCPOption {
		return layers.TCPOption{OptionType: kind, OptionLength: uint8(len(data) + 2), OptionData: data}
	}
	nop := layers.TCPOption{OptionType: layers.TCPOptionKindNop, OptionLength: 1}
	p := frame(build(t, ip4(layers.IPProtocolTCP), tcp(func(l *layers.TCP) {
		l.Options = []layers.TCPOption{opt(2, 5, 180), nop, opt(3, 7), opt(4), opt(8, 0, 0, 0, 1, 0, 0, 0, 2), opt(5, 0, 0, 0, 3, 0, 0, 0, 4)}
	})), sumComplete)
	mustParse(t, p)
	var o TCPOpts
	TCPOptions(p, &o)
	if o.MSS != 1460 || o.WScaleAt == 0 || o.WScale != 7 || !o.SACKPermitted || o.TSVal != 1 || o.TSEcr != 2 {
		t.Errorf("options = %+v", o)
	}
	if o.NumSACK != 1 || o.SACK[0] != (SACKBlock{3, 4}) || binary.BigEndian.Uint32(p.Mem[o.SACKAt:]) != 3 {
		t.Errorf("SACK = %d blocks %v at %d", o.NumSACK, o.SACK, o.SACKAt)
	}
}

func TestClampMSSLowersOnlyWhatIsTooLarge(t *testing.T) {
	mss := layers.TCPOption{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}}
	nop := layers.TCPOption{OptionType: layers.TCPOptionKindNop, OptionLength: 1}
	syn := func(o ...layers.TCPOption) func(*layers.TCP) {
		return func(l *layers.TCP) { l.SYN, l.Options = true, o }
	}
	tests := []struct {
		name  string
		mod   func(*layers.TCP)
		limit uint16
		want  bool
		left  uint16
	}{
		{"too large", syn(mss), 1400, true, 1400},
		{"too large, at an odd place", syn(nop, mss), 1401, true, 1401},
		{"small enough", syn(mss), 1460, false, 1460},
		{"no option", syn(), 1400, false, 0},
		{"not a SYN", func(l *layers.TCP) { l.Options = []layers.TCPOption{mss} }, 1400, false, 1460},
	}
	for _, tt := range tests {
		for _, how := range []sums{sumComplete, sumPartial} {
			b := build(t, ip6(layers.IPProtocolTCP), tcp(tt.mod), payload(5))
			p := frame(b, setSums(b, how))
			mustParse(t, p)
			if got := ClampMSS(p, tt.limit); got != tt.want {
				t.Errorf("%s: ClampMSS = %v, want %v", tt.name, got, tt.want)
			}
			if err := slowCheck(p.IP(), how); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			var o TCPOpts
			if TCPOptions(p, &o); o.MSS != tt.left {
				t.Errorf("%s: MSS = %d, want %d", tt.name, o.MSS, tt.left)
			}
		}
	}
}

func TestGRECallIDIsTranslated(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 21))
	ip := randomIPOf(r, tuple.GRE, true)
	p := frame(ip, sumComplete)
	mustParse(t, p)
	callID := func() uint16 { return binary.BigEndian.Uint16(p.Mem[p.L4+greCallIDAt:]) }
	p.Tuple.DstPort = callID() // as who knows the flow does
	to := p.Tuple
	to.DstPort = 4242
	Translate(p, &to)
	if callID() != 4242 || p.Tuple != to {
		t.Errorf("call id = %d, tuple %v, want 4242", callID(), p.Tuple)
	}
	p.Mem[p.L4+1] = 0 // version 0: the same bytes mean something else
	to.DstPort = 99
	Translate(p, &to)
	if callID() != 4242 {
		t.Errorf("plain GRE was changed to %d", callID())
	}
}

func TestCopyToDescribesTheCopy(t *testing.T) {
	r := rand.New(rand.NewPCG(22, 22))
	ip := errorAbout(r, randomIP(r, tuple.TCP), 100)
	p := frame(ip, sumComplete)
	mustParse(t, p)
	SetLink(p, LinkEthernet, [6]byte{}, [6]byte{})
	var q Packet
	p.CopyTo(&q, make([]byte, Headroom+len(p.Frame())))
	if !bytes.Equal(q.Frame(), p.Frame()) || !bytes.Equal(q.Mem[q.EmbL4:q.EmbEnd], p.Mem[p.EmbL4:p.EmbEnd]) {
		t.Error("copy differs")
	}
	SetLink(&q, LinkIP, [6]byte{}, [6]byte{})
	if !bytes.Equal(q.Frame(), ip) {
		t.Error("copy without link header differs")
	}
}
