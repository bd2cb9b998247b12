package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/validation"
)

// TestShippedConfigurations checks that what is shipped can be read, and says what the plugin
// relies on.
func TestShippedConfigurations(t *testing.T) {
	files, err := filepath.Glob("../../deploy/scheduler/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no configurations: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			object, _, err := scheme.Codecs.UniversalDecoder().Decode(content, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			cfg, ok := object.(*schedulerconfig.KubeSchedulerConfiguration)
			if !ok {
				t.Fatalf("a %T", object)
			}
			if err := validation.ValidateKubeSchedulerConfiguration(cfg); err != nil {
				t.Error(err)
			}
			plugins := cfg.Profiles[0].Plugins
			if first := plugins.PostFilter.Enabled; len(first) == 0 || first[0].Name != "BlockLocality" {
				t.Errorf("PostFilter begins with %v", first)
			}
			if off := plugins.Score.Disabled; len(off) == 0 || off[0].Name != "ImageLocality" {
				t.Errorf("Score disables %v", off)
			}
		})
	}
}

// A flag of kube-scheduler prints its version, "Kubernetes v0.0.0-master+$Format:%H$".
func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"--version"}} {
		command := newCommand()
		var out strings.Builder
		command.SetOut(&out)
		command.SetArgs(args)
		if err := command.Execute(); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(out.String(), "brisk-scheduler ") || !strings.Contains(out.String(), "commit: ") {
			t.Errorf("%q prints %q", args, out.String())
		}
	}
}

func TestCommand(t *testing.T) {
	command := newCommand()
	if command.Name() != "brisk-scheduler" || command.Flags().Lookup("config") == nil {
		t.Errorf("command %s has no flag config", command.Name())
	}
}
