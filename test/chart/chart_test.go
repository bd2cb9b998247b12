// Package chart tests what deploy holds for clusters.
package chart

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/validation"
	_ "sigs.k8s.io/scheduler-plugins/apis/config/scheme" // the arguments of Coscheduling

	_ "github.com/brisk-project/brisk/api/config/scheme" // the arguments of BlockLocality
	nodeconfig "github.com/brisk-project/brisk/node/config"
	"github.com/brisk-project/brisk/test/controlplane"
	"github.com/brisk-project/brisk/test/require"
)

var update = flag.Bool("update", false, "write the expected output anew")

const (
	chart     = "../../deploy/charts/brisk"
	namespace = "brisk-system"
)

// helm runs helm and returns what it prints.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), require.Tool(t, "helm"), args...)
	var out, failure bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failure
	if err := cmd.Run(); err != nil {
		return out.String(), errors.Join(err, errors.New(failure.String()))
	}
	return out.String(), nil
}

func render(t *testing.T, args ...string) string {
	t.Helper()
	out, err := helm(t, append([]string{"template", "brisk", chart, "--namespace", namespace}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLint(t *testing.T) {
	for _, values := range []string{"", "testdata/all.values.yaml", "testdata/least.values.yaml"} {
		args := []string{"lint", "--strict", chart}
		if values != "" {
			args = append(args, "--values", values)
		}
		if out, err := helm(t, args...); err != nil {
			t.Errorf("%s: %v\n%s", values, err, out)
		}
	}
	for _, wrong := range []string{"registry=", "agent.enable=true", "scheduler.replicas=0", "scheduler.percentageOfNodesToScore=101", "agent.programDirectory=bin"} {
		if _, err := helm(t, "template", "brisk", chart, "--set", wrong); err == nil {
			t.Errorf("%s is taken", wrong)
		}
	}
}

// TestRendered compares what is rendered with files.
func TestRendered(t *testing.T) {
	for _, name := range []string{"all", "least"} {
		got := render(t, "--values", filepath.Join("testdata", name+".values.yaml"))
		path := filepath.Join("testdata", name+".yaml")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
}

func objects(t *testing.T, content string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(content), 4096)
	for {
		object := new(unstructured.Unstructured)
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(object.Object) > 0 {
			all = append(all, object)
		}
	}
}

// configuration returns what a ConfigMap of the chart holds.
func configuration(t *testing.T, content, name, key string) string {
	t.Helper()
	for _, object := range objects(t, content) {
		if object.GetKind() == "ConfigMap" && object.GetName() == name {
			value, _, err := unstructured.NestedString(object.Object, "data", key)
			if err != nil || value == "" {
				t.Fatalf("%s in ConfigMap %s: %q, %v", key, name, value, err)
			}
			return value
		}
	}
	t.Fatalf("there is no ConfigMap %s", name)
	return ""
}

// TestConfigurations checks that the programs take the configurations in the chart.
func TestConfigurations(t *testing.T) {
	for _, args := range [][]string{nil, {"--values", "testdata/all.values.yaml"}} {
		content := render(t, args...)
		object, _, err := scheme.Codecs.UniversalDecoder().Decode([]byte(configuration(t, content, "brisk-scheduler", "config.yaml")), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		config, ok := object.(*schedulerconfig.KubeSchedulerConfiguration)
		if !ok {
			t.Fatalf("a %T", object)
		}
		if err := validation.ValidateKubeSchedulerConfiguration(config); err != nil {
			t.Error(err)
		}
		path := filepath.Join(t.TempDir(), "node.yaml")
		if err := os.WriteFile(path, []byte(configuration(t, content, "brisk-node", "node.yaml")), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := nodeconfig.Load(path); err != nil {
			t.Error(err)
		}
	}
}

// TestAccepted has an API server check all objects, with every field.
func TestAccepted(t *testing.T) {
	plane := controlplane.Start(t, "--allow-privileged")
	space := "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + namespace + "}\n---\n"
	// Pods cannot change, so those of "helm test" are made once.
	for _, args := range [][]string{
		nil,
		{"--skip-tests", "--values", "testdata/all.values.yaml"},
		{"--skip-tests", "--values", "testdata/least.values.yaml"},
		{"--skip-tests", "--set", "networkPolicy.enabled=true", "--set", "monitoring.dashboard=true"},
	} {
		plane.ApplyYAML(t, []byte(space+render(t, args...)))
	}
	manifests, err := os.ReadFile("../../deploy/manifests/brisk.yaml")
	if err != nil {
		t.Fatal(err)
	}
	plane.ApplyYAML(t, manifests)
}
