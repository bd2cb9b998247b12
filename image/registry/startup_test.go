package registry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

func traceBlob(name string) registry.TraceBlob {
	return registry.TraceBlob{Digest: block.Sum([]byte("trace " + name)), Size: int64(len(name)), Command: name}
}

// startup returns an artifact with one trace for each command.
func startup(commands ...string) *registry.Startup {
	s := &registry.Startup{Created: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}
	for _, command := range commands {
		s.Traces = append(s.Traces, traceBlob(command))
	}
	return s
}

func encodeStartup(tb testing.TB, s *registry.Startup) []byte {
	tb.Helper()
	manifest, err := registry.EncodeStartup(subject(), s)
	if err != nil {
		tb.Fatal(err)
	}
	return manifest
}

// The manifest is part of the format: another implementation must make the same.
func TestStartupManifest(t *testing.T) {
	t.Parallel()
	s := startup("app")
	s.Traces = append(s.Traces, registry.TraceBlob{Digest: block.Sum([]byte("p")), Size: 2, Predicted: true})
	s.Traces = append(s.Traces, registry.TraceBlob{Digest: block.Sum([]byte("l")), Size: 2, List: true})
	s.Bundle = &registry.BundleBlob{Digest: block.Sum([]byte("b")), Size: 3, Annotations: map[string]string{"k": "v"}}
	s.List = &registry.ListBlob{Digest: block.Sum([]byte("/a")), Size: 2}
	var got map[string]any
	if err := json.Unmarshal(encodeStartup(t, s), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"schemaVersion": 2.0,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"artifactType":  "application/vnd.brisk.startup.v1",
		"annotations":   map[string]any{"org.opencontainers.image.created": "2030-01-02T03:04:05Z"},
		"config": map[string]any{
			"mediaType": "application/vnd.oci.empty.v1+json", "size": 2.0,
			"digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
		},
		"layers": []any{
			map[string]any{
				"mediaType": "application/vnd.brisk.trace.v1+zstd", "size": 3.0, "digest": traceBlob("app").Digest.String(),
				"annotations": map[string]any{"dev.brisk.trace.command": "app"},
			},
			map[string]any{
				"mediaType": "application/vnd.brisk.trace.v1+zstd", "size": 2.0, "digest": block.Sum([]byte("p")).String(),
				"annotations": map[string]any{"dev.brisk.trace.predicted": "true"},
			},
			map[string]any{
				"mediaType": "application/vnd.brisk.trace.v1+zstd", "size": 2.0, "digest": block.Sum([]byte("l")).String(),
				"annotations": map[string]any{"dev.brisk.trace.list": "true"},
			},
			map[string]any{
				"mediaType": "application/vnd.brisk.bundle.v1+zstd", "size": 3.0, "digest": block.Sum([]byte("b")).String(),
				"annotations": map[string]any{"k": "v"},
			},
			map[string]any{"mediaType": "application/vnd.brisk.prefetch.v1", "size": 2.0, "digest": block.Sum([]byte("/a")).String()},
		},
		"subject": map[string]any{
			"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 123.0,
			"digest": block.Sum([]byte("subject")).String(),
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	parsed, err := registry.ParseStartup(encodeStartup(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, parsed, cmpopts.IgnoreFields(registry.Startup{}, "Digest", "Size", "Subject")); diff != "" {
		t.Error(diff)
	}
}

func TestParseStartupRefuses(t *testing.T) {
	t.Parallel()
	valid := encodeStartup(t, startup("a"))
	bundle := &registry.BundleBlob{Digest: block.Sum([]byte("b")), Size: 3}
	s := startup("a")
	s.Bundle = bundle
	twice := bytes.Replace(encodeStartup(t, s), []byte(registry.TraceMediaType), []byte(registry.BundleMediaType), 1)
	bundle = &registry.BundleBlob{Digest: bundle.Digest, Size: registry.MaxBundleBlob + 1}
	s = startup("a")
	s.List = &registry.ListBlob{Digest: block.Sum([]byte("/a")), Size: 2}
	twoLists := bytes.Replace(encodeStartup(t, s), []byte(registry.TraceMediaType), []byte(registry.ListMediaType), 1)
	s.List = &registry.ListBlob{Digest: block.Sum([]byte("/a")), Size: registry.MaxListBlob + 1}
	replace := func(old, with string) []byte { return bytes.Replace(valid, []byte(old), []byte(with), 1) }
	for name, manifest := range map[string][]byte{
		"nothing":         nil,
		"two values":      append(bytes.Clone(valid), '1'),
		"an index":        replace(registry.StartupType, registry.ArtifactType),
		"no subject":      replace(`"subject"`, `"object"`),
		"a bad digest":    replace(traceBlob("a").Digest.Hex(), strings.Repeat("z", 64)),
		"trace of 0 B":    replace(`"size":1,`, `"size":0,`),
		"trace of 2 MiB":  replace(`"size":1,`, `"size":2097152,`),
		"two bundles":     twice,
		"two lists":       twoLists,
		"endless list":    encodeStartup(t, s),
		"endless bundle":  encodeStartup(t, &registry.Startup{Bundle: bundle}),
		"too many blobs":  replace(`"layers":[`, `"layers":[`+strings.Repeat(`{},`, 300)),
		"a long manifest": bytes.Repeat([]byte(" "), registry.MaxManifest+1),
	} {
		if _, err := registry.ParseStartup(manifest); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What a newer writer added is passed over, as are more traces than anybody needs.
	other := replace(string(registry.TraceMediaType), "application/vnd.brisk.trace.v9")
	if s, err := registry.ParseStartup(other); err != nil || len(s.Traces) != 0 {
		t.Errorf("unknown blob: %v, %v", s, err)
	}
	d := `{"mediaType":"application/vnd.brisk.trace.v1+zstd","size":1,"digest":"` + traceBlob("a").Digest.String() + `"},`
	if s, err := registry.ParseStartup(replace(`"layers":[`, `"layers":[`+strings.Repeat(d, 100))); err != nil || len(s.Traces) != registry.MaxTraces {
		t.Errorf("100 traces: %v, %v", s, err)
	}
	if _, err := registry.EncodeStartup(subject(), startup(make([]string, registry.MaxTraces+1)...)); err == nil {
		t.Error("too many traces were encoded")
	}
}

func FuzzParseStartup(f *testing.F) {
	s := startup("a", "b")
	s.Bundle = &registry.BundleBlob{Digest: block.Sum([]byte("b")), Size: 3}
	s.List = &registry.ListBlob{Digest: block.Sum([]byte("/a")), Size: 2}
	f.Add(encodeStartup(f, s))
	f.Add(encodeStartup(f, startup()))
	f.Add([]byte(`{"artifactType":"application/vnd.brisk.startup.v1","subject":{"digest":"sha256:00"},"layers":[{}]}`))
	f.Fuzz(func(t *testing.T, manifest []byte) {
		a, err := registry.ParseStartup(manifest)
		if err != nil {
			if !errors.Is(err, registry.ErrInvalid) {
				t.Fatalf("error %v", err)
			}
			return
		}
		of := subject()
		of.Digest = v1.Hash{Algorithm: "sha256", Hex: a.Subject.Hex()}
		again, err := registry.EncodeStartup(of, a)
		if err != nil {
			t.Fatal(err)
		}
		b, err := registry.ParseStartup(again)
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Traces) != len(b.Traces) || (a.Bundle == nil) != (b.Bundle == nil) || (a.List == nil) != (b.List == nil) || a.Subject != b.Subject {
			t.Fatalf("%+v was read as %+v", a, b)
		}
	})
}
