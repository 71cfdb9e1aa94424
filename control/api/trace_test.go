package api

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"
)

func TestTraceEndsAfterAsManyPacketsAndTellsWhatWasMissed(t *testing.T) {
	_, client, _ := serve(t)
	lines, err := client.Trace(t.Context(), WatchRequest{Match: "udp", Count: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	var got []TracedPacket
	for dec := json.NewDecoder(lines); ; {
		var p TracedPacket
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		got = append(got, p)
	}
	if len(got) != 3 || got[1].Out != "wan0" || got[1].Missed != nil || got[2].Missed == nil || got[2].Missed.Unread != 7 {
		t.Errorf("told %+v, want two packets and that seven were missed", got)
	}
}

func TestTraceEndsAfterItsTime(t *testing.T) {
	_, client, _ := serve(t)
	lines, err := client.Trace(t.Context(), WatchRequest{Duration: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	if b, err := io.ReadAll(lines); err != nil || strings.Count(string(b), "\n") != 4 {
		t.Errorf("told %s, %v, want three packets and what was missed", b, err)
	}
}

func TestCaptureHasAnInterfaceForEachStage(t *testing.T) {
	_, client, _ := serve(t)
	stream, err := client.Capture(t.Context(), WatchRequest{Count: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	whole, err := io.ReadAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	r, err := pcapgo.NewNgReader(bytes.NewReader(whole), pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		if _, ci, err := r.ReadPacketData(); err != nil || ci.InterfaceIndex != i%2 || ci.Timestamp.UnixNano() != 1700000000e9+int64(i/2) {
			t.Fatalf("frame %d: %+v, %v", i, ci, err)
		}
	}
	if _, _, err := r.ReadPacketData(); err != io.EOF {
		t.Errorf("after the last frame: %v", err)
	}
	for i, want := range []string{"lan0 before", "wan0 after"} {
		if f, err := r.Interface(i); err != nil || f.Name != want {
			t.Errorf("interface %d: %+v, %v, want %s", i, f, err, want)
		}
	}
	if f, err := r.Interface(0); err != nil || f.Statistics.PacketsDropped != 7 {
		t.Errorf("statistics %+v, %v, want that seven were dropped", f.Statistics, err)
	}
	comment := "forwarded by wan0 as udp 203.0.113.1:4000 > 198.51.100.7:53\narrive: on lan0\nfilter: accept\n  rule 1 filter accept (built in)\n-a\n+b"
	if n := bytes.Count(whole, []byte(comment)); n != 6 {
		t.Errorf("%d frames have the walk as comment, want all 6", n)
	}
}
