package api

import "slices"

// ranking keeps the values with the largest keys, of equal ones those that came first.
// It is a heap whose root is the one to give way.
type ranking[T any] struct {
	room  int
	seq   int
	items []ranked[T]
}

type ranked[T any] struct {
	key   float64
	seq   int
	value T
}

func newRanking[T any](room int) *ranking[T] { return &ranking[T]{room: room} }

// below reports whether a gives way before b.
func (a *ranked[T]) below(b *ranked[T]) bool {
	return a.key < b.key || a.key == b.key && a.seq > b.seq
}

// wants reports whether a value with a key would be kept.
func (r *ranking[T]) wants(key float64) bool {
	return len(r.items) < r.room || key > r.items[0].key
}

// add keeps a value if there are not enough larger ones.
func (r *ranking[T]) add(key float64, value T) {
	if !r.wants(key) {
		return
	}
	r.seq++
	x := ranked[T]{key, r.seq, value}
	if len(r.items) < r.room {
		r.items = append(r.items, x)
		r.up(len(r.items) - 1)
		return
	}
	r.items[0] = x
	r.down()
}

func (r *ranking[T]) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !r.items[i].below(&r.items[parent]) {
			return
		}
		r.items[i], r.items[parent] = r.items[parent], r.items[i]
		i = parent
	}
}

func (r *ranking[T]) down() {
	for i := 0; ; {
		least := i
		for _, child := range [...]int{2*i + 1, 2*i + 2} {
			if child < len(r.items) && r.items[child].below(&r.items[least]) {
				least = child
			}
		}
		if least == i {
			return
		}
		r.items[i], r.items[least] = r.items[least], r.items[i]
		i = least
	}
}

// sorted returns what was kept, the largest key first.
func (r *ranking[T]) sorted() []T {
	slices.SortFunc(r.items, func(a, b ranked[T]) int {
		if b.below(&a) {
			return -1
		}
		return 1
	})
	out := make([]T, len(r.items))
	for i := range r.items {
		out[i] = r.items[i].value
	}
	return out
}
