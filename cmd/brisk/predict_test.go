package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// TestPredictionCoversAStart converts an image of a program of this machine with its libraries and
// others, and compares what was predicted with what its start reads.
func TestPredictionCoversAStart(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	s := newSite(t)
	image := pushLinked(t, reg, "app:v1")
	requireOutput(t, run(t, "convert", "--predict=false", image), "linux/amd64")
	if got := finish(t, program(t, "trace", "show", image)); got.code == 0 || !strings.Contains(got.stderr, "no trace in the registry") {
		t.Errorf("without a prediction: %+v", got)
	}
	requireOutput(t, run(t, "convert", image), "a start is predicted to read")
	// The artifact without a prediction is still there.
	requireOutput(t, run(t, "trace", "show", image), "predicted", "bin/mount", "libc.so")
	recording, predicting := filepath.Join(s.dir, "recorded"), filepath.Join(s.dir, "predicted")
	run(t, "trace", "export", image, "-o", predicting)
	run(t, "trace", "--dir", s.node, "--net", "none", "--until", "exit", "-o", recording, "--push", image)
	recorded, predicted := readTrace(t, recording), readTrace(t, predicting)
	if !predicted.Predicted || recorded.Predicted {
		t.Errorf("predicted %v, recorded %v", predicted.Predicted, !recorded.Predicted)
	}
	total := recorded.Trace.Bytes()
	missed := predicted.Trace.Union(recorded.Trace).Bytes() - predicted.Trace.Bytes()
	t.Logf("%d bytes were read; of the %d that were predicted %d are missing", total, predicted.Trace.Bytes(), missed)
	if missed > total/5 || total < 1<<20 || predicted.Trace.Bytes() > 2*total {
		t.Errorf("%d bytes were read; of the %d that were predicted %d are missing", total, predicted.Trace.Bytes(), missed)
	}
	// A recorded trace takes its place, without a change of the index.
	requireOutput(t, run(t, "trace", "show", image), "recorded, /bin/mount --version")
	if out := run(t, "convert", image); strings.Contains(out, "predicted") {
		t.Errorf("a conversion without anything to do: %s", out)
	}
	requireOutput(t, run(t, "trace", "show", image), "recorded, /bin/mount --version")
}

// pushLinked pushes an image of mount, of its libraries, and of others.
func pushLinked(t *testing.T, reg *registrytest.Registry, ref string) string {
	t.Helper()
	mount := require.Tool(t, "mount")
	out, err := exec.CommandContext(t.Context(), require.Tool(t, "ldd"), mount).Output()
	if err != nil {
		t.Fatal(err)
	}
	paths := map[string]string{"bin/mount": mount}
	for field := range strings.FieldsSeq(string(out)) {
		if filepath.IsAbs(field) {
			paths[strings.TrimPrefix(field, "/")] = field
		}
	}
	members := []registrytest.File{{Name: "usr/lib/unused.so", Data: registrytest.Files(1, 1, 8<<20)[0].Data}}
	for name, path := range paths {
		content, err := os.ReadFile(filepath.Clean(path))
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, registrytest.File{Name: name, Data: content, Mode: 0o755})
	}
	reg.Push(t, ref, registrytest.Image{
		Config: func(c *v1.Config) { c.Entrypoint = []string{"/bin/mount", "--version"} },
		Layers: []registrytest.Layer{{Tar: registrytest.Tar(t, members...), Level: 1}},
	})
	return reg.Ref(t, ref).String()
}
