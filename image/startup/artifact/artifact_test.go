package artifact_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, registrytest.LeakOptions()...) }

// file returns a trace of one page that no other command reads.
func file(command string, predicted bool) startup.File {
	read := startup.Trace{{Layer: block.Sum([]byte("layer")), Offset: int64(len(command)) * startup.PageSize, Length: startup.PageSize}}
	return startup.File{Trace: read, Command: command, Predicted: predicted}
}

// TestPushAndFetch pushes traces one after the other and reads those that count.
func TestPushAndFetch(t *testing.T) {
	for _, referrers := range []bool{false, true} {
		r := registrytest.New(t, registrytest.Config{Referrers: referrers})
		c, err := registry.NewClient(registry.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{{Tar: registrytest.Tar(t)}}})
		ref := r.Ref(t, "app:v1")
		if _, err := convert.Convert(t.Context(), c, ref, convert.Config{}); err != nil {
			t.Fatal(err)
		}
		image, err := c.Resolve(t.Context(), ref, v1.Platform{OS: "linux", Architecture: "amd64"})
		if err != nil {
			t.Fatal(err)
		}
		find := func() *registry.Artifact {
			found, err := c.FindArtifact(t.Context(), image)
			if err != nil {
				t.Fatal(err)
			}
			return found
		}
		if got := artifact.SelectTraces(find()); got != nil {
			t.Errorf("before there are any: %v", got)
		}
		for _, step := range []struct {
			push   startup.File
			bundle *registry.BundleBlob
			want   string
		}{
			{push: file("", true), want: ""},
			{push: file("a", false), bundle: &registry.BundleBlob{Digest: block.Sum([]byte("{}")), Size: 2}, want: "a"},
			{push: file("longer", false), want: "longer a"},
			{push: file("a", false), want: "a longer"},
		} {
			found := find()
			if _, err := artifact.Push(t.Context(), c, image, found.Startup, artifact.Config{
				Files: []startup.File{step.push}, Bundle: step.bundle, Now: time.Now(),
			}); err != nil {
				t.Fatal(err)
			}
			found = find()
			if (found.Startup.Bundle != nil) != (step.bundle != nil) {
				t.Errorf("after %q: bundle %v, pushed %v", step.push.Command, found.Startup.Bundle, step.bundle)
			}
			got, err := artifact.Fetch(t.Context(), c, ref.Context(), artifact.SelectTraces(found))
			var names []string
			for _, f := range got {
				names = append(names, f.Command)
			}
			if strings.Join(names, " ") != step.want || err != nil || got[0].Predicted != step.push.Predicted {
				t.Errorf("after %q: traces of %q: %v", step.push.Command, names, err)
			}
			if diff := cmp.Diff(step.push, got[0]); diff != "" {
				t.Error(diff)
			}
		}
	}
}

// TestFetchLeavesOutTheBroken reads traces of which one is not there and one is none.
func TestFetchLeavesOutTheBroken(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c, err := registry.NewClient(registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	repo := r.Ref(t, "app:v1").Context()
	push := func(content []byte) registry.TraceBlob {
		if err := c.PushBlob(t.Context(), repo, content, registry.TraceMediaType); err != nil {
			t.Fatal(err)
		}
		return registry.TraceBlob{Digest: block.Sum(content), Size: int64(len(content))}
	}
	encoded, err := file("good", false).Encode()
	if err != nil {
		t.Fatal(err)
	}
	bad := []registry.TraceBlob{push([]byte("not a trace")), {Digest: block.Sum([]byte("missing")), Size: 7}}
	got, err := artifact.Fetch(t.Context(), c, repo, append(bad, push(encoded)))
	if err != nil || len(got) != 1 || got[0].Command != "good" {
		t.Errorf("with a good one: %v, %v", got, err)
	}
	if got, err := artifact.Fetch(t.Context(), c, repo, bad); err == nil {
		t.Errorf("without a good one: %v", got)
	}
}
