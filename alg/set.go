package alg

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Set gives numbers to helpers with the options of rules: the number is what a flow
// and an expectation keep. A number means the same for as long as the set exists;
// there are as many as the rules had different helpers and options.
//
// Number locks; the others may be called from the data path.
type Set struct {
	mu      sync.Mutex // guards additions
	helpers []Helper
	made    atomic.Pointer[[]Attachment] // by number; 0 is none
	told    func(number uint32, name string)
}

// Attachment is a helper with the options of a rule.
type Attachment struct {
	Helper  Helper
	Spec    Spec // of Helper, with defaults
	Options Options
}

// Attach returns a helper with options, and what its Spec leaves to defaults.
func Attach(h Helper, o Options) Attachment {
	sp := h.Spec()
	if sp.Limit == 0 {
		sp.Limit = DefaultLimit
	}
	return Attachment{h, sp, o}
}

// NewSet returns a set of these helpers, whose names must differ.
func NewSet(helpers ...Helper) (*Set, error) {
	s := &Set{helpers: slices.Clone(helpers)}
	s.made.Store(&[]Attachment{{}})
	seen := map[string]bool{}
	for _, h := range helpers {
		sp := h.Spec()
		if sp.Name == "" || seen[sp.Name] {
			return nil, fmt.Errorf("helper %q: its name is missing or taken", sp.Name)
		}
		if len(sp.Classes) == 0 || len(sp.Protos) == 0 || sp.Limit < 0 || sp.Limit > MaxLimit {
			return nil, fmt.Errorf("helper %q: needs a class, a protocol and a limit up to %d", sp.Name, MaxLimit)
		}
		seen[sp.Name] = true
	}
	return s, nil
}

// Names lists the helpers of the set.
func (s *Set) Names() []string {
	names := make([]string, 0, len(s.helpers))
	for _, h := range s.helpers {
		names = append(names, h.Spec().Name)
	}
	slices.Sort(names)
	return names
}

// Number returns the number of the helper with a name and the given options. The
// error lists the names there are.
func (s *Set) Number(name string, o Options) (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	made := *s.made.Load()
	for i := range made[1:] {
		if a := &made[i+1]; a.Spec.Name == name && a.Options == o {
			return uint32(i + 1), nil
		}
	}
	for _, h := range s.helpers {
		a := Attach(h, o)
		if a.Spec.Name != name {
			continue
		}
		made = append(slices.Clone(made), a)
		if s.told != nil {
			s.told(uint32(len(made)-1), name)
		}
		s.made.Store(&made)
		return uint32(len(made) - 1), nil
	}
	return 0, fmt.Errorf("no helper %q: there are %s", name, strings.Join(s.Names(), ", "))
}

// OnNumber has f called with each number that is given to a helper from now on, before
// anybody has it. It must be called before the first one, and f must not call s.
func (s *Set) OnNumber(f func(number uint32, name string)) { s.told = f }

// Get returns the helper with a number, nil if there is none.
func (s *Set) Get(number uint32) *Attachment {
	made := *s.made.Load()
	if number == 0 || int(number) >= len(made) {
		return nil
	}
	return &made[number]
}

// Name returns the name of the helper with a number, "" if there is none. It serves
// as conntrack.Config.HelperName.
func (s *Set) Name(number uint32) string {
	if a := s.Get(number); a != nil {
		return a.Spec.Name
	}
	return ""
}

// All returns the names of the helpers that have numbers, by number; "" for 0.
func (s *Set) All() []string {
	made := *s.made.Load()
	names := make([]string, len(made))
	for i := range made {
		names[i] = made[i].Spec.Name
	}
	return names
}
