package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const example = `commit: 0123456789ab
cpu: A Processor
BenchmarkPipeline/udp/flows=1k-2         	 100	 50.0 ns/op	 40.0 cpu-ns/op	 0 B/op	 0 allocs/op
BenchmarkPipeline/udp/flows=1M-2         	 100	 90.0 ns/op	 80.0 cpu-ns/op	 0 B/op	 0 allocs/op
BenchmarkPipeline/udp/flows=1M-2         	 100	 95.0 ns/op	 100 cpu-ns/op	 0 B/op	 0 allocs/op
BenchmarkPipeline/udp/flows=1M-2         	 100	 99.0 ns/op	 1000 cpu-ns/op	 0 B/op	 0 allocs/op
BenchmarkPipeline/tcp/flows=1M
BenchmarkRate/gateway=kernel/flows=1k 1 1.5 Mpps 20 lost-%
BenchmarkRate/gateway=culvert/flows=1k 1 2.5 Mpps 10 lost-%
BenchmarkRate/gateway=culvert/flows=64k 1 2.25 Mpps 10 lost-%
BenchmarkWorkers/gateway=kernel/workers=0 1 1.0 Mpps
BenchmarkWorkers/gateway=culvert/workers=1 1 0.75 Mpps
BenchmarkWorkers/gateway=culvert/workers=2 1 1.25 Mpps
PASS
`

func TestFiguresAreMediansByVariant(t *testing.T) {
	r := results{}
	if err := r.add(example); err != nil {
		t.Fatal(err)
	}
	got := map[string][]line{}
	for _, d := range diagrams(r) {
		got[d.name] = d.lines
	}
	want := map[string][]line{
		"walk-flows": {{"udp", []point{{1e3, 25}, {1e6, 10}}}},
		"rate-flows": {{"culvert", []point{{1e3, 2.5}, {64e3, 2.25}}}, {"kernel", []point{{1e3, 1.5}}}},
		"workers":    {{"culvert", []point{{1, 0.75}, {2, 1.25}}}, {"kernel", []point{{1, 1}, {2, 1}}}},
	}
	for name, lines := range got {
		if !slices.EqualFunc(lines, want[name], func(a, b line) bool { return a.name == b.name && slices.Equal(a.points, b.points) }) {
			t.Errorf("%s: %v, want %v", name, lines, want[name])
		}
	}
}

func TestDiagramsAreWellFormed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "results.txt")
	if err := os.WriteFile(file, []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run([]string{"-o", dir, file}, &out); err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(out.String())
	if len(names) != 3 {
		t.Fatalf("%d diagrams, want 3: %s", len(names), &out)
	}
	for _, name := range names {
		svg, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		elements := 0
		for d := xml.NewDecoder(bytes.NewReader(svg)); ; elements++ {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if elements < 50 || strings.Contains(string(svg), "NaN") || strings.Contains(string(svg), "Inf") {
			t.Errorf("%s has %d elements:\n%s", name, elements, svg)
		}
	}
}

func TestAxesHaveAFewRoundTicks(t *testing.T) {
	for _, most := range []float64{0.9, 1, 1.3, 2.4, 9.9, 47, 512, 400e3} {
		s := scaleOf(0, most, false, 0, 100)
		if n := len(s.ticks); n < 4 || n > 12 || s.to < most || s.to > 1.5*most {
			t.Errorf("up to %v: ticks %v", most, s.ticks)
		}
	}
	if s := scaleOf(1000, 16e6, true, 0, 100); !slices.Equal(s.ticks, []float64{1e3, 1e4, 1e5, 1e6, 1e7, 1e8}) {
		t.Errorf("ticks %v", s.ticks)
	}
}

// TestDiagramsOfTheDocumentationAreOfItsResults draws them again.
func TestDiagramsOfTheDocumentationAreOfItsResults(t *testing.T) {
	const kept = "../results"
	files, err := filepath.Glob(kept + "/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no result files in %s: %v", kept, err)
	}
	dir := t.TempDir()
	var out bytes.Buffer
	if err := run(append([]string{"-o", dir}, files...), &out); err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(out.String()) {
		now, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		was, err := os.ReadFile(filepath.Join(kept, filepath.Base(name)))
		if err != nil || !bytes.Equal(now, was) {
			t.Errorf("%s is not what the result files say (%v): make plots", filepath.Base(name), err)
		}
	}
}
