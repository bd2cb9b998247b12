// Package monitoring tests what the chart brings for Prometheus and Grafana: each metric
// exists, each alert is explained, and nothing of it is there unless it is asked for.
package monitoring

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/brisk-project/brisk/test/require"
)

const root = "../../.."

// object has the fields of the objects that are looked at.
type object struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
	Data map[string]string `json:"data"`
	Spec struct {
		Groups []struct {
			Rules []rule `json:"rules"`
		} `json:"groups"`
		PolicyTypes []string `json:"policyTypes"`
	} `json:"spec"`
}

type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// render returns the objects of the chart by kind and name.
func render(t *testing.T, args ...string) (map[string]object, error) {
	t.Helper()
	args = append([]string{"template", "brisk", filepath.Join(root, "deploy/charts/brisk"), "--namespace", "brisk-system"}, args...)
	cmd := exec.CommandContext(t.Context(), require.Tool(t, "helm"), args...)
	out, err := cmd.Output()
	all := make(map[string]object)
	for document := range bytes.SplitSeq(out, []byte("\n---\n")) {
		var o object
		if err := yaml.Unmarshal(document, &o); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		all[o.Kind+"/"+o.Metadata.Name] = o
	}
	return all, err
}

func rendered(t *testing.T, args ...string) map[string]object {
	t.Helper()
	all, err := render(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var (
	used = regexp.MustCompile(`brisk_[a-z0-9_]+`)
	// grouped are the labels that an expression sums over, shown those that a text shows.
	grouped = regexp.MustCompile(`\bby \(([^)]*)\)`)
	shown   = regexp.MustCompile(`\$labels\.([a-z_]+)|\{\{([a-z_]+)\}\}`)
)

// checkMetrics requires that metrics of an expression exist and have the labels that it
// sums over and that the text beside it shows.
func checkMetrics(t *testing.T, known map[string]map[string]bool, where, expr, text string) {
	t.Helper()
	// Of Prometheus: buckets of histograms, and the node, which the PodMonitor adds.
	labels := map[string]bool{"le": true, "node": true}
	metrics := used.FindAllString(expr, -1)
	if len(metrics) == 0 && !strings.Contains(expr, "up{") {
		t.Errorf("%s looks at no metric: %s", where, expr)
	}
	for _, metric := range metrics {
		has, ok := known[metric]
		if !ok {
			has, ok = known[strings.TrimSuffix(metric, "_bucket")]
		}
		if !ok {
			t.Errorf("%s: nothing registers %s", where, metric)
		}
		maps.Copy(labels, has)
	}
	for _, list := range grouped.FindAllStringSubmatch(expr, -1) {
		for label := range strings.SplitSeq(list[1], ",") {
			if label = strings.TrimSpace(label); !labels[label] {
				t.Errorf("%s: no metric has the label %s: %s", where, label, expr)
			}
		}
	}
	for _, match := range shown.FindAllStringSubmatch(text, -1) {
		if label := match[1] + match[2]; !labels[label] {
			t.Errorf("%s: no metric has the label %s: %s", where, label, text)
		}
	}
}

func TestAlertsUseMetricsThatExistAndAreExplained(t *testing.T) {
	known := registered(t)
	book, err := os.ReadFile(filepath.Join(root, "docs/runbook.md"))
	if err != nil {
		t.Fatal(err)
	}
	alerts := make(map[string]bool)
	for _, group := range rendered(t, "--values", "testdata/all.values.yaml")["PrometheusRule/brisk"].Spec.Groups {
		for _, r := range group.Rules {
			alerts[r.Alert] = true
			checkMetrics(t, known, r.Alert, r.Expr, r.Annotations["summary"])
			if !strings.HasSuffix(r.Annotations["runbook_url"], "/docs/runbook.md#"+strings.ToLower(r.Alert)) {
				t.Errorf("%s: runbook_url is %q", r.Alert, r.Annotations["runbook_url"])
			}
			if r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
				t.Errorf("%s has no severity or summary", r.Alert)
			}
		}
	}
	if len(alerts) < 9 {
		t.Errorf("%d alerts", len(alerts))
	}
	for _, heading := range regexp.MustCompile(`(?m)^## (\S+)$`).FindAllSubmatch(book, -1) {
		if !alerts[string(heading[1])] {
			t.Errorf("the runbook explains %s, which is no alert", heading[1])
		}
		delete(alerts, string(heading[1]))
	}
	for alert := range alerts {
		t.Errorf("the runbook has no section %s", alert)
	}
}

func TestDashboardUsesMetricsThatExist(t *testing.T) {
	known := registered(t)
	config := rendered(t, "--values", "testdata/all.values.yaml")["ConfigMap/brisk-dashboard"]
	if config.Metadata.Labels["grafana_dashboard"] != "1" {
		t.Errorf("labels %v", config.Metadata.Labels)
	}
	var dashboard struct {
		Panels []struct {
			Title   string `json:"title"`
			Targets []struct {
				Expr         string `json:"expr"`
				LegendFormat string `json:"legendFormat"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal([]byte(config.Data["brisk.json"]), &dashboard); err != nil {
		t.Fatal(err)
	}
	if len(dashboard.Panels) == 0 {
		t.Error("no panels")
	}
	for _, panel := range dashboard.Panels {
		if len(panel.Targets) == 0 {
			t.Errorf("%s shows nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			checkMetrics(t, known, panel.Title, target.Expr, target.LegendFormat)
		}
	}
}

func TestOptionalObjectsAreOffByDefault(t *testing.T) {
	optional := []string{
		"PodMonitor/brisk-node", "ServiceMonitor/brisk-scheduler", "Service/brisk-scheduler", "PrometheusRule/brisk",
		"ConfigMap/brisk-dashboard", "NetworkPolicy/brisk-scheduler",
	}
	without := rendered(t)
	with := rendered(t, "--values", "testdata/all.values.yaml", "--set", "networkPolicy.enabled=true")
	for _, name := range optional {
		if _, ok := without[name]; ok {
			t.Errorf("%s is there by default", name)
		}
		if _, ok := with[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestMonitorNeedsReachableAgents(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1:4078", "localhost:4078", "[::1]:4078"} {
		if _, err := render(t, "--set", "monitoring.agent=true", "--set", "agent.config.http.address="+address); err == nil {
			t.Errorf("address %q is taken", address)
		}
	}
}
