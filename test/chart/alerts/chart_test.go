package alerts

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"sigs.k8s.io/yaml"
)

const root = "../../.."

// render returns the objects of the chart of a kind with everything for Prometheus on.
func render(t *testing.T, kind string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "helm", "template", "brisk", filepath.Join(root, "deploy/charts/brisk"), "--namespace", "brisk-system",
		"--values", filepath.Join(root, "test/chart/monitoring/testdata/all.values.yaml"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("helm, which %q builds: %v", "make test-alerts", err)
	}
	for document := range bytes.SplitSeq(out, []byte("\n---\n")) {
		if bytes.Contains(document, []byte("\nkind: "+kind+"\n")) {
			return document
		}
	}
	t.Fatalf("the chart has no %s", kind)
	return nil
}

// decode decodes an object of the chart. Unknown fields are errors: the API server drops
// them without a word.
func decode(t *testing.T, kind string, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(render(t, kind), into); err != nil {
		t.Errorf("%s: %v", kind, err)
	}
}

func TestOperatorKnowsAllFields(t *testing.T) {
	var pods monitoring.PodMonitor
	decode(t, "PodMonitor", &pods)
	if len(pods.Spec.PodMetricsEndpoints) != 1 || len(pods.Spec.PodMetricsEndpoints[0].RelabelConfigs) != 1 {
		t.Errorf("endpoints of pods: %+v", pods.Spec.PodMetricsEndpoints)
	}
	var services monitoring.ServiceMonitor
	decode(t, "ServiceMonitor", &services)
	if len(services.Spec.Endpoints) != 1 || services.Spec.Endpoints[0].Port == "" {
		t.Errorf("endpoints of services: %+v", services.Spec.Endpoints)
	}
	for _, interval := range []monitoring.Duration{pods.Spec.PodMetricsEndpoints[0].Interval, services.Spec.Endpoints[0].Interval} {
		if _, err := model.ParseDuration(string(interval)); err != nil {
			t.Error(err)
		}
	}
}

// alert is a rule of the chart, ready to be evaluated.
type alert struct {
	*rules.AlertingRule
	hold time.Duration
}

// chartAlerts returns the alerts of the chart by name.
func chartAlerts(t *testing.T) map[string]alert {
	t.Helper()
	var rule monitoring.PrometheusRule
	decode(t, "PrometheusRule", &rule)
	all := make(map[string]alert)
	for _, group := range rule.Spec.Groups {
		for _, r := range group.Rules {
			expr, err := parser.NewParser(parser.Options{}).ParseExpr(r.Expr.String())
			if err != nil {
				t.Errorf("%s: %v", r.Alert, err)
				continue
			}
			if expr.Type() != parser.ValueTypeVector {
				t.Errorf("%s is a %s: %s", r.Alert, expr.Type(), r.Expr.String())
			}
			var hold model.Duration
			if r.For != nil {
				if hold, err = model.ParseDuration(string(*r.For)); err != nil {
					t.Errorf("%s: %v", r.Alert, err)
				}
			}
			all[r.Alert] = alert{
				AlertingRule: rules.NewAlertingRule(r.Alert, expr, time.Duration(hold), 0, labels.FromMap(r.Labels), labels.FromMap(r.Annotations),
					labels.EmptyLabels(), "", true, promslog.NewNopLogger()),
				hold: time.Duration(hold),
			}
		}
	}
	return all
}

func TestDashboardIsPromQL(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "deploy/charts/brisk/files/dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string `json:"title"`
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal(content, &dashboard); err != nil {
		t.Fatal(err)
	}
	parsed := 0
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			parsed++
			// Grafana fills it in.
			expr := strings.ReplaceAll(target.Expr, "$__rate_interval", "5m")
			if _, err := parser.NewParser(parser.Options{}).ParseExpr(expr); err != nil {
				t.Errorf("%s: %s: %v", panel.Title, target.Expr, err)
			}
		}
	}
	if parsed < 10 {
		t.Errorf("%d expressions", parsed)
	}
}
