package conntrack

import (
	"errors"

	"example.com/culvert/conntrack/tuple"
)

const maxRetrans = 3

// ErrNotFound: no entry has this tuple.
var ErrNotFound = errors.New("such conntrack doesn't exist")

type Ref struct {
	Slot uint32
	Dir  tuple.Direction
}

func (r Ref) Found() bool { return r.Slot != 0 }

type Proposal struct {
	Original, Reply tuple.Tuple
	Status          Status
	Mark, Rule      uint32
	Choice          uint8
	Timeout         Tick
	Master          Ref
}

type Table struct{}
type Worker struct{}
type Entry struct{}
type Subscription struct{}
type Stats struct{ Found, Invalid, Insert, InsertFailed, Drop, EarlyDrop, ClashResolve, ChainTooLong uint64 }

func New(Config) (*Table, error)                                 { panic(0) }
func (t *Table) Close() error                                    { panic(0) }
func (t *Table) Worker(i int) *Worker                            { panic(0) }
func (t *Table) Entry(slot uint32) *Entry                        { panic(0) }
func (t *Table) Dump(f func(*Flow) bool)                         { panic(0) }
func (t *Table) Get(k tuple.Tuple) (Flow, error)                 { panic(0) }
func (t *Table) Delete(k tuple.Tuple) error                      { panic(0) }
func (t *Table) DeleteIf(f func(*Flow) bool) int                 { panic(0) }
func (t *Table) Flush() int                                      { panic(0) }
func (t *Table) SetMark(k tuple.Tuple, mark, mask uint32) error  { panic(0) }
func (t *Table) Subscribe(buf int, mask EventMask) *Subscription { panic(0) }
func (t *Table) Check(now Tick) []error                          { panic(0) }
func (t *Table) Len() int                                        { panic(0) }
func (t *Table) Stats() Stats                                    { panic(0) }
func (s *Subscription) Events() <-chan Event                     { panic(0) }
func (s *Subscription) Missed() uint64                           { panic(0) }
func (s *Subscription) Close()                                   { panic(0) }
func (w *Worker) Begin(now Tick)                                 { panic(0) }
func (w *Worker) Park()                                          { panic(0) }
func (w *Worker) Lookup(keys []tuple.Tuple, refs []Ref)          { panic(0) }
func (w *Worker) Find(k *tuple.Tuple) Ref                        { panic(0) }
func (w *Worker) Entry(slot uint32) *Entry                       { panic(0) }
func (w *Worker) Claim(p *Proposal, now Tick) (Ref, Claim)       { panic(0) }
func (w *Worker) Confirm(r Ref, now Tick)                        { panic(0) }
func (w *Worker) Abort(r Ref)                                    { panic(0) }
func (w *Worker) Track(r Ref, s *Segment, now Tick) Verdict      { panic(0) }
func (w *Worker) Admissible(k *tuple.Tuple, s *Segment) Verdict  { panic(0) }
func (w *Worker) Kill(r Ref)                                     { panic(0) }
func (e *Entry) Tuple(d tuple.Direction) tuple.Tuple             { panic(0) }
func (e *Entry) Status() Status                                  { panic(0) }
func (e *Entry) SetStatus(bits Status)                           { panic(0) }
func (e *Entry) Mark() uint32                                    { panic(0) }
func (e *Entry) SetMark(m uint32)                                { panic(0) }
func (e *Entry) Hint(d tuple.Direction) uint32                   { panic(0) }
func (e *Entry) SetHint(d tuple.Direction, h uint32)             { panic(0) }
func (e *Entry) Rule() uint32                                    { panic(0) }
func (e *Entry) Choice() uint8                                   { panic(0) }
func (e *Entry) State() State                                    { panic(0) }
func (e *Entry) Timeout() Tick                                   { panic(0) }
func (e *Entry) Gen() uint32                                     { panic(0) }
