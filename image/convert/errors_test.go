package convert_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

func TestMismatches(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	good := registrytest.Layer{Tar: tarOf(t, 1)}
	wrong := good
	wrong.DiffID = "sha256:" + strings.Repeat("ab", 32)
	truncated := func(l registrytest.Layer) registrytest.Layer {
		l.Blob = registrytest.Compress(t, l)
		l.Blob = l.Blob[:len(l.Blob)/2]
		return l
	}
	bomb := registrytest.Tar(t, registrytest.File{Name: "zeros", Data: make([]byte, maxStream+1)})
	for _, tt := range []struct {
		name  string
		layer registrytest.Layer
		fault registrytest.Fault
		is    error
		text  string
	}{
		{"wrong diffID", wrong, nil, convert.ErrMismatch, "diffID"},
		{"wrong blob", registrytest.Layer{Tar: good.Tar, Compression: registrytest.None}, registrytest.Flip(100_000), convert.ErrMismatch, "digest"},
		{"broken gzip", good, registrytest.Flip(1000), nil, ""},
		{"not a tar", registrytest.Layer{Tar: bytes.Repeat([]byte("no tar "), 1000)}, nil, nil, "layer sha256:"},
		{"shorter blob", good, registrytest.Shorten(), registry.ErrInvalid, "bytes"},
		{"missing blob", good, registrytest.Status(404), block.ErrNotFound, "404"},
		{"truncated gzip", truncated(good), nil, io.ErrUnexpectedEOF, ""},
		{"truncated zstd", truncated(registrytest.Layer{Tar: good.Tar, Compression: registrytest.Zstd}), nil, io.ErrUnexpectedEOF, ""},
		{"truncated tar", registrytest.Layer{Tar: good.Tar[:100_000], Compression: registrytest.None}, nil, io.ErrUnexpectedEOF, ""},
		{"gzip bomb", registrytest.Layer{Tar: bomb}, nil, nil, "longer than"},
		{"zstd bomb", registrytest.Layer{Tar: bomb, Compression: registrytest.Zstd}, nil, nil, "longer than"},
	} {
		for _, mode := range []convert.Mode{convert.ModeIndex, convert.ModeFull} {
			t.Run(tt.name+"/"+string(mode), func(t *testing.T) {
				r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{tt.layer}})
				digest := block.Sum(registrytest.Compress(t, tt.layer)).String()
				if tt.layer.Blob != nil {
					digest = block.Sum(tt.layer.Blob).String()
				}
				if tt.fault != nil {
					r.Inject(registrytest.Rule{Fault: tt.fault, Match: func(req *http.Request) bool {
						return req.Method == http.MethodGet && strings.HasSuffix(req.URL.Path, digest)
					}})
					defer r.ClearFaults()
				}
				r.ResetRequests()
				cfg := convert.Config{Mode: mode, Build: index.BuildConfig{MaxStream: maxStream}}
				_, err := convert.Convert(t.Context(), c, r.Ref(t, "app:v1"), cfg)
				if err == nil || (tt.is != nil && !errors.Is(err, tt.is)) || !strings.Contains(err.Error(), tt.text) ||
					!strings.Contains(err.Error(), digest) {
					t.Errorf("error %v, want one that is %q, says %q and names the layer", err, tt.is, tt.text)
				}
				for _, req := range r.Requests() {
					if req.Method == http.MethodPut {
						t.Errorf("a failed conversion stored %s", req.Path)
					}
				}
				if _, err := c.Resolve(t.Context(), r.Ref(t, "app:v1_accelerated"), linux()); !errors.Is(err, block.ErrNotFound) {
					t.Errorf("a failed conversion left a tag: %v", err)
				}
			})
		}
	}
}

// maxStream is the longest layer stream in these tests.
const maxStream = 32 << 20

// A layer that is not in the registry because it must not be is a reason to leave
// its platform out, not the others.
func TestForeignLayer(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{Referrers: true})
	c := newClient(t)
	foreign := registrytest.Layer{Tar: tarOf(t, 1), MediaType: types.OCIRestrictedLayer, URLs: []string{"https://elsewhere.example/layer"}}
	windows := registrytest.Image{Layers: []registrytest.Layer{foreign}, Platform: v1.Platform{OS: "windows", Architecture: "amd64"}}
	r.PushIndex(t, "app:v1", windows, registrytest.Image{Layers: []registrytest.Layer{{Tar: tarOf(t, 2)}}})
	result := mustConvert(t, c, r.Ref(t, "app:v1"), convert.Config{})
	if !strings.Contains(result.Platforms[0].Skipped, "not distributable") || result.Platforms[1].Skipped != "" {
		t.Errorf("platforms %+v", result.Platforms)
	}
	r.PushIndex(t, "windows:v1", windows)
	if _, err := convert.Convert(t.Context(), c, r.Ref(t, "windows:v1"), convert.Config{}); err == nil ||
		!strings.Contains(err.Error(), "not distributable") {
		t.Errorf("nothing but foreign layers: %v", err)
	}
}

// An image that nothing can be done with is refused with a reason.
func TestRefused(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	if _, err := convert.Convert(t.Context(), c, r.Ref(t, "app:v1"), convert.Config{}); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("missing image: %v", err)
	}
	r.Push(t, "app:v1", registrytest.Image{})
	if result := mustConvert(t, c, r.Ref(t, "app:v1"), convert.Config{}); len(result.Layers) != 0 || !result.Platforms[0].Pushed {
		t.Errorf("an image without layers: %+v", result)
	}
	// An artifact is no image.
	image, err := c.Resolve(t.Context(), r.Ref(t, "app:v1"), linux())
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := c.FindArtifact(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := convert.Convert(t.Context(), c, r.Ref(t, "app@"+artifact.Digest.String()), convert.Config{}); !errors.Is(err, registry.ErrInvalid) {
		t.Errorf("converting an artifact: %v", err)
	}
}

// An index whose content is not the one listed is never opened.
func TestChangedIndex(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{{Tar: tarOf(t, 1)}}})
	mustConvert(t, c, r.Ref(t, "app:v1"), convert.Config{})
	image, err := c.Resolve(t.Context(), r.Ref(t, "app:v1"), linux())
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := c.FindArtifact(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	r.Inject(registrytest.Rule{Fault: registrytest.Flip(100), Times: 1})
	if _, err := c.LayerIndexes(t.Context(), image, artifact); !errors.Is(err, registry.ErrInvalid) {
		t.Errorf("changed index: %v", err)
	}
	if _, err := c.LayerIndexes(t.Context(), image, artifact); err != nil {
		t.Errorf("right index: %v", err)
	}
	if _, err := c.LayerIndexes(t.Context(), image, &registry.Artifact{}); !errors.Is(err, registry.ErrNoArtifact) {
		t.Errorf("no index: %v", err)
	}
}
