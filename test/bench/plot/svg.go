package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
)

// diagram is lines over one axis.
type diagram struct {
	name, title string
	x, y        string // what the axes are
	logX, logY  bool
	lines       []line
}

type line struct {
	name   string
	points []point // by x
}

type point struct{ x, y float64 }

// Geometry, in pixels.
const (
	width, height            = 880, 400
	left, right, top, bottom = 70, 200, 45, 50 // the legend is to the right
	legendStep               = 18
)

// colours can be told apart by people who see fewer of them (Okabe and Ito).
var colours = [...]string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}

// scale maps values to pixels.
type scale struct {
	from, to       float64 // values, their logarithms if log
	pixels, origin float64
	log            bool
	ticks          []float64
}

func (s *scale) at(v float64) float64 {
	if s.log {
		v = math.Log10(v)
	}
	return s.origin + (v-s.from)/(s.to-s.from)*s.pixels
}

// scaleOf returns a scale for values from least to most, from 0 unless log.
func scaleOf(least, most float64, log bool, origin, pixels float64) *scale {
	s := &scale{origin: origin, pixels: pixels, log: log}
	if log {
		s.from, s.to = math.Floor(math.Log10(least)), math.Ceil(math.Log10(most))
		if s.to == s.from {
			s.to++
		}
		for e := s.from; e <= s.to; e++ {
			s.ticks = append(s.ticks, math.Pow(10, e))
		}
		return s
	}
	step := math.Pow(10, math.Floor(math.Log10(max(most, 1e-9))))
	for _, finer := range []float64{2, 2.5, 2} { // 5, 2, 1 of the decimal below
		if most/step < 4 {
			step /= finer
		}
	}
	s.to = math.Ceil(most/step) * step
	for v := 0.0; v <= s.to+step/2; v += step {
		s.ticks = append(s.ticks, v)
	}
	return s
}

// draw writes the diagram as SVG.
func (d *diagram) draw(w *bytes.Buffer) {
	least, most := point{math.Inf(1), math.Inf(1)}, point{}
	for _, l := range d.lines {
		for _, p := range l.points {
			least, most = point{min(least.x, p.x), min(least.y, p.y)}, point{max(most.x, p.x), max(most.y, p.y)}
		}
	}
	xs := scaleOf(least.x, most.x, d.logX, left, width-left-right)
	ys := scaleOf(least.y, most.y, d.logY, height-bottom, -(height - top - bottom))
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %d" font-family="sans-serif" font-size="13">`+"\n", width, height, height)
	fmt.Fprintf(w, `<rect width="100%%" height="100%%" fill="#fff"/>`+"\n")
	text(w, left, 22, "start", `font-size="15"`, d.title)
	for _, v := range xs.ticks {
		x := xs.at(v)
		fmt.Fprintf(w, `<path d="M%.1f %d V%d" stroke="#eee"/>`+"\n", x, top, height-bottom)
		text(w, x, height-bottom+18, "middle", "", short(v))
	}
	for _, v := range ys.ticks {
		y := ys.at(v)
		fmt.Fprintf(w, `<path d="M%d %.1f H%d" stroke="#ddd"/>`+"\n", left, y, width-right)
		text(w, left-8, y+4, "end", "", short(v))
	}
	text(w, left+(width-left-right)/2, height-12, "middle", "", d.x)
	text(w, -(top + (height-top-bottom)/2), 18, "middle", `transform="rotate(-90)"`, d.y)
	for i, l := range d.lines {
		colour := colours[i%len(colours)]
		path := ""
		for j, p := range l.points {
			path += fmt.Sprintf("%c%.1f %.1f", "ML"[min(j, 1)], xs.at(p.x), ys.at(p.y))
		}
		fmt.Fprintf(w, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", path, colour)
		for _, p := range l.points {
			fmt.Fprintf(w, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s: %s, %s</title></circle>`+"\n",
				xs.at(p.x), ys.at(p.y), colour, html.EscapeString(l.name), short(p.x), short(p.y))
		}
		y := float64(top + 12 + i*legendStep)
		fmt.Fprintf(w, `<path d="M%d %.1f h20" stroke="%s" stroke-width="2"/>`+"\n", width-right+16, y-4, colour)
		text(w, width-right+42, y, "start", "", l.name)
	}
	w.WriteString("</svg>\n")
}

// text writes words with their anchor at a place.
func text(w *bytes.Buffer, x, y float64, anchor, more, words string) {
	if more != "" {
		more = " " + more
	}
	fmt.Fprintf(w, `<text x="%.1f" y="%.1f" text-anchor="%s"%s>%s</text>`+"\n", x, y, anchor, more, html.EscapeString(words))
}

// short writes a value with k and M, in three digits.
func short(v float64) string {
	suffix := ""
	switch {
	case v >= 1e6:
		v, suffix = v/1e6, "M"
	case v >= 1e3:
		v, suffix = v/1e3, "k"
	}
	return strconv.FormatFloat(round(v), 'f', -1, 64) + suffix
}

// round keeps three digits.
func round(v float64) float64 {
	if v == 0 {
		return 0
	}
	unit := math.Pow(10, math.Floor(math.Log10(math.Abs(v)))-2)
	if unit >= 1 {
		return math.Round(v/unit) * unit
	}
	return math.Round(v/unit) / math.Round(1/unit)
}
