package control

import (
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"example.com/culvert/control/metrics"
)

// TestScrapeOfARunningGateway: what Prometheus gets of one has nothing that promtool
// complains of, and tells the flow that passes.
func TestScrapeOfARunningGateway(t *testing.T) {
	b := start(t)
	b.send(t, 40000)
	b.received(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(metrics.NewCollector(b.Gateway))
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	text := answer.Body.String()
	for _, want := range []string{
		"\nculvert_ready 1\n",
		"\nculvert_flows 1\n",
		"\nnode_nf_conntrack_entries 1\n",
		"\nculvert_flow_states{protocol=\"udp\",state=\"UNREPLIED\"} 1\n",
		"\nculvert_flow_states{protocol=\"tcp\",state=\"ESTABLISHED\"} 0\n",
		"\nculvert_worker_batch_packets_count{worker=\"0\"} ",
		"\nculvert_worker_batch_packets_bucket{worker=\"0\",le=\"64\"} ",
		"\nculvert_queue_length{queue=\"neighbour\"} 0\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q among the metrics", want)
		}
	}
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
