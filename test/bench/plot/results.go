package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// results are the figures of benchmarks: by name, without the number of processors, and
// unit.
type results map[string]map[string][]float64

// add reads a result file. Lines that are no results are passed over.
func (r results) add(text string) error {
	n := 0
	for l := range strings.Lines(text) {
		n++
		words := strings.Fields(l)
		if len(words) < 4 || !strings.HasPrefix(words[0], "Benchmark") {
			continue
		}
		if _, err := strconv.Atoi(words[1]); err != nil {
			continue // output of a benchmark between its name and its results
		}
		name := strings.TrimPrefix(words[0], "Benchmark")
		if at := strings.LastIndexByte(name, '-'); at > 0 {
			if _, err := strconv.Atoi(name[at+1:]); err == nil {
				name = name[:at]
			}
		}
		if r[name] == nil {
			r[name] = map[string][]float64{}
		}
		for i := 2; i+1 < len(words); i += 2 {
			v, err := strconv.ParseFloat(words[i], 64)
			if err != nil {
				return fmt.Errorf("%d: %q is no number", n, words[i])
			}
			r[name][words[i+1]] = append(r[name][words[i+1]], v)
		}
	}
	return nil
}

// lines returns a line for each variant of a benchmark, over a key of its name:
// of Rate/gateway=culvert/flows=1k over flows, "culvert". change is applied to values.
func (r results) lines(benchmark, key, unit string, change func(float64) float64) []line {
	var all []line
	for name, figures := range r {
		values := figures[unit]
		parts := strings.Split(name, "/")
		if parts[0] != benchmark || len(values) == 0 {
			continue
		}
		var variant []string
		x, found := 0.0, false
		for _, part := range parts[1:] {
			k, v, _ := strings.Cut(part, "=")
			if k == key {
				x, found = size(v)
			} else if k == "gateway" {
				variant = append(variant, v)
			} else {
				variant = append(variant, part)
			}
		}
		if !found {
			continue
		}
		y := median(values)
		if change != nil {
			y = change(y)
		}
		called := strings.Join(variant, " ")
		at := slices.IndexFunc(all, func(l line) bool { return l.name == called })
		if at < 0 {
			at = len(all)
			all = append(all, line{name: called})
		}
		all[at].points = append(all[at].points, point{x, y})
	}
	for _, l := range all {
		slices.SortFunc(l.points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
	}
	slices.SortFunc(all, func(a, b line) int { return cmp.Compare(a.name, b.name) })
	return all
}

// size reads a number like 64k or 16M.
func size(text string) (float64, bool) {
	scale := 1.0
	switch {
	case strings.HasSuffix(text, "k"):
		scale = 1e3
	case strings.HasSuffix(text, "M"):
		scale = 1e6
	}
	v, err := strconv.ParseFloat(strings.TrimRight(text, "kM"), 64)
	return v * scale, err == nil
}

// median returns the middle of some values.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
