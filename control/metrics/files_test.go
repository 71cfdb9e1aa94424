package metrics

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
)

// names are labels of metrics by the metrics' names.
type names map[string][]string

// scraped are the labels that Prometheus adds to all metrics.
var scraped = []string{"instance", "job"}

// exported are the labels of the metrics by their names, those of the series of a
// histogram included.
func exported(t *testing.T) names {
	t.Helper()
	all := names{}
	for name, f := range gather(t) {
		labels := slices.Clone(scraped)
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		if f.GetType() != dto.MetricType_HISTOGRAM {
			all[name] = labels
			continue
		}
		all[name+"_sum"], all[name+"_count"], all[name+"_bucket"] = labels, labels, append(slices.Clone(labels), "le")
	}
	return all
}

func TestTheSourceHasOneOfEverything(t *testing.T) {
	if got := gather(t); len(got) != len(all) {
		t.Errorf("%d metrics of %d are exported by the source of the tests", len(got), len(all))
	}
}

var (
	promString   = regexp.MustCompile(`"[^"]*"`)
	promRange    = regexp.MustCompile(`\[[^\]]*\]`)
	promSelector = regexp.MustCompile(`([a-zA-Z_:][\w:]*)\{([^}]*)\}`)
	promMatcher  = regexp.MustCompile(`(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"`)
	promGrouping = regexp.MustCompile(`\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)`)
	promName     = regexp.MustCompile(`[a-zA-Z_:][\w:]*\b(\s*\()?`)
	template     = regexp.MustCompile(`\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}`)
)

// expression is what a PromQL expression names.
type expression struct {
	metrics  []string
	groups   []string            // labels it groups or joins by
	matchers map[string][]string // by metric and label, "metric label": values
}

func parseExpression(text string) expression {
	x := expression{matchers: map[string][]string{}}
	for _, s := range promSelector.FindAllStringSubmatch(text, -1) {
		for _, m := range promMatcher.FindAllStringSubmatch(s[2], -1) {
			values := []string{m[3]}
			if strings.Contains(m[2], "~") {
				values = strings.Split(m[3], "|")
			}
			x.matchers[s[1]+" "+m[1]] = values
		}
	}
	text = promSelector.ReplaceAllString(text, "$1")
	text = promRange.ReplaceAllString(promString.ReplaceAllString(text, ""), "")
	for _, g := range promGrouping.FindAllStringSubmatch(text, -1) {
		for _, label := range strings.Split(g[1], ",") {
			x.groups = append(x.groups, strings.TrimSpace(label))
		}
	}
	text = promGrouping.ReplaceAllString(text, "")
	for _, m := range promName.FindAllStringSubmatch(text, -1) {
		if m[1] == "" && !slices.Contains([]string{"and", "or", "unless", "bool", "offset"}, m[0]) {
			x.metrics = append(x.metrics, m[0])
		}
	}
	return x
}

// check holds what an expression names, and the labels that its texts show, against
// what is exported.
func (labels names) check(t *testing.T, where, text string, shown ...string) {
	t.Helper()
	sets, x := closedSets(), parseExpression(text)
	if len(x.metrics) == 0 {
		t.Errorf("%s: %s names no metric", where, text)
	}
	var known []string
	for _, m := range x.metrics {
		if labels[m] == nil {
			t.Errorf("%s: metric %s is not exported", where, m)
		}
		known = append(known, labels[m]...)
	}
	for key, values := range x.matchers {
		metric, label, _ := strings.Cut(key, " ")
		if !slices.Contains(labels[metric], label) {
			t.Errorf("%s: metric %s has no label %s", where, metric, label)
		}
		set := sets[key]
		if set == nil {
			set = sets[label]
		}
		for _, v := range values {
			if !strings.HasPrefix(v, "$") && !slices.Contains(set, v) {
				t.Errorf("%s: label %s of %s is never %q", where, label, metric, v)
			}
		}
	}
	for _, text := range shown {
		for _, m := range template.FindAllStringSubmatch(text, -1) {
			x.groups = append(x.groups, m[1])
		}
	}
	for _, label := range x.groups {
		if !slices.Contains(known, label) {
			t.Errorf("%s: no metric of it has the label %s", where, label)
		}
	}
}

func TestExpressionsAreReadRight(t *testing.T) {
	x := parseExpression(`histogram_quantile(0.99, sum by (worker, le) (rate(a_bucket{instance=~"$instance", reason!~"x|y"}[5m]))) > 3 and on (job) b`)
	if !slices.Equal(x.metrics, []string{"a_bucket", "b"}) || !slices.Equal(x.groups, []string{"worker", "le", "job"}) ||
		!slices.Equal(x.matchers["a_bucket reason"], []string{"x", "y"}) || !slices.Equal(x.matchers["a_bucket instance"], []string{"$instance"}) {
		t.Errorf("%+v", x)
	}
}

const (
	dashboardFile = "../../configs/grafana-dashboard.json"
	alertsFile    = "../../configs/prometheus-alerts.yml"
	alertTests    = "../../configs/prometheus-alerts-test.yml"
)

// dashboard is what the test looks at of a dashboard of Grafana.
type dashboard struct {
	UID, Title string
	Templating struct {
		List []struct{ Name, Query string }
	}
	Panels []struct {
		ID                       int
		Type, Title, Description string
		GridPos                  struct{ X, Y, W, H int }
		FieldConfig              struct{ Defaults struct{ Unit string } }
		Targets                  []struct{ RefID, Expr, LegendFormat string }
	}
	Annotations struct{ List []struct{ Name, Expr string } }
}

func TestDashboardShowsWhatIsExported(t *testing.T) {
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Panels) < 20 || d.UID == "" || d.Title == "" {
		t.Fatalf("dashboard %q, %q has %d panels", d.UID, d.Title, len(d.Panels))
	}
	variables := []string{"$__rate_interval"}
	for _, v := range d.Templating.List {
		variables = append(variables, "$"+v.Name)
	}
	labels := exported(t)
	ids, titles, expressions := map[int]bool{}, map[string]bool{}, []string{}
	used := map[[2]int]string{} // cells of the grid
	for _, p := range d.Panels {
		where := fmt.Sprintf("panel %d, %q", p.ID, p.Title)
		if ids[p.ID] || titles[p.Title] || p.Title == "" {
			t.Errorf("%s: want an id and a title of its own", where)
		}
		ids[p.ID], titles[p.Title] = true, true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				cell := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if used[cell] != "" || cell[0] >= 24 {
					t.Errorf("%s lies over %q, or beyond the right edge", where, used[cell])
				}
				used[cell] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("%s: want a description, a unit and a query", where)
		}
		refs := map[string]bool{}
		for _, q := range p.Targets {
			if refs[q.RefID] || q.LegendFormat == "" {
				t.Errorf("%s: want a reference of its own for each query, and a legend", where)
			}
			refs[q.RefID] = true
			labels.check(t, where, q.Expr, q.LegendFormat)
			expressions = append(expressions, q.Expr)
		}
	}
	for _, a := range d.Annotations.List {
		labels.check(t, "annotation "+a.Name, a.Expr)
		expressions = append(expressions, a.Expr)
	}

	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for i, e := range expressions {
		for _, m := range regexp.MustCompile(`\$\w+`).FindAllString(e, -1) {
			if !slices.Contains(variables, m) {
				t.Errorf("%s: the dashboard has no variable %s", e, m)
			}
		}
		fmt.Fprintf(&rules, "  - record: dashboard:expression%d\n    expr: '%s'\n", i, strings.ReplaceAll(e, "$__rate_interval", "5m"))
	}
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	promtool(t, "", "check", "rules", file)
}

// alert is an alert rule as the file has it.
type alert struct {
	name, expr, text string
}

var (
	alertName = regexp.MustCompile(`(?m)^ +- alert: (\w+)$`)
	alertExpr = regexp.MustCompile(`(?s)\n +expr: (?:\|\n)?(.*?)\n +(?:for|labels):`)
)

func readAlerts(t *testing.T) (alerts []alert) {
	t.Helper()
	text, err := os.ReadFile(alertsFile)
	if err != nil {
		t.Fatal(err)
	}
	at := alertName.FindAllSubmatchIndex(text, -1)
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		block := string(text[m[0]:end])
		expr := alertExpr.FindStringSubmatch(block)
		if expr == nil {
			t.Fatalf("%s: no expression", text[m[2]:m[3]])
		}
		alerts = append(alerts, alert{string(text[m[2]:m[3]]), expr[1], block})
	}
	return alerts
}

func TestAlertsLookAtWhatIsExported(t *testing.T) {
	alerts := readAlerts(t)
	if len(alerts) < 10 {
		t.Fatalf("%d alerts", len(alerts))
	}
	labels, seen := exported(t), map[string]bool{}
	for _, a := range alerts {
		if seen[a.name] || !strings.HasPrefix(a.name, "Culvert") {
			t.Errorf("%s: want a name of its own that begins with Culvert", a.name)
		}
		seen[a.name] = true
		_, annotations, _ := strings.Cut(a.text, "annotations:")
		annotations = regexp.MustCompile(`\{\{ \$value[^}]*\}\}`).ReplaceAllString(annotations, "")
		if strings.HasPrefix(a.expr, "absent(") {
			annotations = ""
		}
		labels.check(t, a.name, a.expr, annotations)
		for _, part := range []string{" severity: ", " summary: ", " description: "} {
			if !strings.Contains(a.text, part) {
				t.Errorf("%s has no%s", a.name, part)
			}
		}
	}
	promtool(t, "", "check", "rules", alertsFile)
}

// TestAlertsFireWhenTheyShould has promtool play series to each alert: those that it
// is for, and those of a gateway in good health.
func TestAlertsFireWhenTheyShould(t *testing.T) {
	text, err := os.ReadFile(alertTests)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range readAlerts(t) {
		cases := regexp.MustCompile(`alertname: `+a.name+`\n +exp_alerts:( \[\])?`).FindAllStringSubmatch(string(text), -1)
		fires, silent := false, false
		for _, c := range cases {
			fires, silent = fires || c[1] == "", silent || c[1] != ""
		}
		if !fires || !silent {
			t.Errorf("%s: tested when it fires: %v, when it must not: %v", a.name, fires, silent)
		}
	}
	promtool(t, "", "test", "rules", alertTests)
}
