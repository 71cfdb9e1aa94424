// Plot draws diagrams from result files of make bench and make bench-wire.
//
//	go run ./test/bench/plot -o DIR FILE...
//
// It reads the text format of Go's benchmarks, takes the median of each figure, writes
// an SVG for every diagram of which there are data, and prints their names.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("plot", flag.ContinueOnError)
	dir := flags.String("o", ".", "`folder` for the diagrams")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("name result files")
	}
	r := results{}
	for _, name := range flags.Args() {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := r.add(string(text)); err != nil {
			return fmt.Errorf("%s:%w", name, err)
		}
	}
	drawn := 0
	for _, d := range diagrams(r) {
		if len(d.lines) == 0 {
			continue
		}
		var svg bytes.Buffer
		d.draw(&svg)
		path := filepath.Join(*dir, d.name+".svg")
		if err := os.WriteFile(path, svg.Bytes(), 0o644); err != nil {
			return err
		}
		fmt.Fprintln(out, path)
		drawn++
	}
	if drawn == 0 {
		return errors.New("there are no figures to draw")
	}
	return nil
}

// diagrams are what can be drawn; those without lines have no data.
func diagrams(r results) []*diagram {
	inMega := func(ns float64) float64 { return 1000 / ns }
	return []*diagram{
		{name: "walk-flows", title: "Established flows in memory, one worker", x: "flows", y: "million packets a second", logX: true,
			lines: r.lines("Pipeline", "flows", "cpu-ns/op", inMega)},
		{name: "rate-flows", title: "60-byte UDP between two hosts, one sender at full speed", x: "flows", y: "million packets a second", logX: true,
			lines: r.lines("Rate", "flows", "Mpps", nil)},
		{name: "workers", title: "60-byte UDP, a sender for each processor", x: "workers", y: "million packets a second",
			lines: level(r.lines("Workers", "workers", "Mpps", nil))},
		{name: "latency-load", title: "Request and response beside other packets", x: "other packets a second", y: "microseconds",
			lines: append(named(r.lines("Latency", "load", "p50-us", nil), "median"), named(r.lines("Latency", "load", "p99-us", nil), "99th percentile")...)},
		{name: "memory-flows", title: "Resident memory of the gateway", x: "flows", y: "megabytes", logX: true, logY: true,
			lines: r.lines("Memory", "flows", "resident-MB", nil)},
	}
}

// level draws what has one value at 0, the kernel that has no workers, as a line through
// all of the diagram.
func level(lines []line) []line {
	most := 1.0
	for _, l := range lines {
		for _, p := range l.points {
			most = max(most, p.x)
		}
	}
	for i := range lines {
		if p := lines[i].points; len(p) == 1 && p[0].x == 0 {
			lines[i].points = []point{{1, p[0].y}, {most, p[0].y}}
		}
	}
	return lines
}

// named adds to the names of lines.
func named(lines []line, more string) []line {
	for i := range lines {
		lines[i].name += ", " + more
	}
	return lines
}
