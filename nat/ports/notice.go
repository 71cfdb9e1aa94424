package ports

import "sync/atomic"

// Watch says what beside blocks is told by Notices.
type Watch struct {
	Mappings  bool // those of inside endpoints, when they begin and end
	High, Low int  // percent of a client's quota that its ports reach, and fall to again; High 0: not told
}

// What a Notice is about.
const (
	MappingBegun NoticeKind = iota
	MappingEnded
	ClientHigh
	ClientLow
)

// NoticeKind says what happened.
type NoticeKind uint8

var noticeNames = [...]string{MappingBegun: "mapping begun", MappingEnded: "mapping ended", ClientHigh: "client high", ClientLow: "client low"}

func (k NoticeKind) String() string { return noticeNames[k] }

// Notice tells of a mapping, or of a client's ports.
type Notice struct {
	Kind     NoticeKind
	Proto    uint8
	Inside   Endpoint // of a client: its address alone, for IPv6 the /64
	External Endpoint // of a mapping
	Quota    uint32   // of a client
	Used     uint32   // of it
}

// notices hands them to whoever reads, and never waits.
type notices struct {
	watch atomic.Uint64 // 1: mappings; from bit 8 on High, from bit 16 on Low
	to    chan Notice
	lost  atomic.Uint64
}

const (
	watchMappings = 1
	watchHigh     = 8 // bits below the percentage
	watchLow      = 16
	noticeRoom    = 4096
)

// Watch sets what Notices tells from now on. Until it is called nothing is told.
func (s *Set) Watch(w Watch) {
	v := uint64(w.High)<<watchHigh | uint64(w.Low)<<watchLow
	if w.Mappings {
		v |= watchMappings
	}
	s.notices.watch.Store(v)
}

// Notices returns what Watch asks for, in its order for each mapping and client. A
// mapping that a flow took and gave back because it got no port comes and goes, too.
// The channel is closed by Close.
func (s *Set) Notices() <-chan Notice { return s.notices.to }

// NoticesLost returns how many Notices found no room.
func (s *Set) NoticesLost() uint64 { return s.notices.lost.Load() }

func (n *notices) tell(x Notice) {
	select {
	case n.to <- x:
	default:
		n.lost.Add(1)
	}
}

// mapping tells that a lease of kindMap begins or ends, if anybody wants to know.
func (n *notices) mapping(kind NoticeKind, l *lease) {
	if n.watch.Load()&watchMappings != 0 {
		n.tell(Notice{Kind: kind, Proto: l.key.proto, Inside: Endpoint{l.key.addr, l.key.port, l.key.zone}, External: l.value})
	}
}

// grown tells that a client with a quota has one port more, if that is the one that
// reaches the high mark. The lease is one of kindClient, with the quota as its rule.
func (n *notices) grown(l *lease) {
	if high := n.watch.Load() >> watchHigh & 0xff; high != 0 && l.refs == mark(l.rule, high) {
		n.client(ClientHigh, l, l.refs)
	}
}

// shrunk tells that a client has one port less, so many, if that is below the low mark
// for the first time.
func (n *notices) shrunk(l *lease, left uint32) {
	w := n.watch.Load()
	if w>>watchHigh&0xff != 0 && left+1 == mark(l.rule, w>>watchLow&0xff) {
		n.client(ClientLow, l, left)
	}
}

func (n *notices) client(kind NoticeKind, l *lease, used uint32) {
	n.tell(Notice{Kind: kind, Proto: l.key.proto, Inside: Endpoint{Addr: l.key.addr, Zone: l.key.zone}, Quota: l.rule, Used: used})
}

// mark returns how many ports are a percentage of a quota, rounded up: at least one.
func mark(quota uint32, percent uint64) uint32 {
	return uint32(max((uint64(quota)*percent+99)/100, 1))
}
