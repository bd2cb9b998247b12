package node_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// resolve returns an image of a registry, and a client to push what belongs to it.
func resolve(t *testing.T, reference string) (*registry.Client, *registry.Image) {
	t.Helper()
	c := newClient(t)
	ref, err := c.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	image, err := c.Resolve(t.Context(), ref, v1.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	image.Name = ref
	return c, image
}

// pushTrace pushes traces of an image.
func pushTrace(t *testing.T, reference string, files ...startup.File) {
	t.Helper()
	c, image := resolve(t, reference)
	found, err := c.FindArtifact(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := artifact.Push(t.Context(), c, image, found.Startup, artifact.Config{Files: files, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
}

// traceOnly is a decision to load nothing but what a start reads.
func traceOnly(*node.Image) bool { return false }

// wide is a trace that reads much of an image, and of others.
func wide() startup.Trace {
	var all startup.Recorder
	all.Add(startup.Span{Layer: block.Sum([]byte("other image")), Length: 100 * block.Size})
	for _, s := range touched() {
		all.Add(startup.Span{Layer: s.Layer, Offset: 1 << 40, Length: block.Size})
		all.Add(s)
	}
	return all.Trace()
}

// TestFirstPullHasTheTraceOfTheRegistry pulls an image that no node has ever started: what the
// trace in the registry reads is loaded, and nothing else, though the trace also names other images
// and bytes past the end.
func TestFirstPullHasTheTraceOfTheRegistry(t *testing.T) {
	require.FUSE(t)
	for _, referrers := range []bool{false, true} {
		for _, source := range []node.TraceSource{node.TraceRegistry, node.TracePredicted} {
			t.Run(fmt.Sprintf("referrers=%t/%s", referrers, source), func(t *testing.T) {
				reg := registrytest.New(t, registrytest.Config{Referrers: referrers})
				image := push(t, reg, "app:v1", large().layers)
				pushTrace(t, image, startup.File{Trace: wide(), Predicted: source == node.TracePredicted})
				dir, metrics := filepath.Join(t.TempDir(), "node"), prometheus.NewRegistry()
				n, stop := start(t, node.Config{Dir: dir, Metrics: metrics})
				requireSet(t, n, fetched(t, n, image, traceOnly), source)
				stop()

				// The next process has the trace too, without the registry.
				n, stop = start(t, node.Config{Dir: dir})
				found := fetched(t, n, image, nil)
				reg.Inject(registrytest.Rule{Fault: registrytest.Status(http.StatusInternalServerError)})
				requireSet(t, n, found, source)
				if err := n.Retain(t.Context(), []*node.Image{found}); err != nil {
					t.Fatal(err)
				}
				if _, err := n.Object(found.Traces[0].Digest, registry.MaxTraceBlob); err != nil {
					t.Errorf("the trace of an image that is kept: %v", err)
				}
				reg.ClearFaults()

				// What the node learns itself counts from then on.
				runStart(t, n, dir, image)
				if got := n.ImageStatus(found).Start; got == nil || got.Source != node.TraceRecorded {
					t.Errorf("after a start: %+v", got)
				}
				if err := n.Retain(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
				if _, err := n.Object(found.Traces[0].Digest, registry.MaxTraceBlob); !errors.Is(err, block.ErrNotFound) {
					t.Errorf("the trace of a removed image: %v", err)
				}
				stop()
			})
		}
	}
}

// requireSet waits until the start-up set of large is local, and nothing else.
func requireSet(t *testing.T, n *node.Node, image *node.Image, source node.TraceSource) {
	t.Helper()
	size := int64(len(touched())) * block.Size
	want := &node.StartStatus{Bytes: size, Source: source, Pinned: source != node.TracePredicted}
	p2ptest.Await(t, "the start-up set", func() bool { return cmp.Equal(want, n.ImageStatus(image).Start) })
	// Blocks that lie in the frames of those come along.
	if cached := n.ImageStatus(image).CachedBytes; cached < size || cached > int64(len(large().files[largeGzip])) {
		t.Errorf("%d bytes were loaded for a start-up set of %d", cached, size)
	}
}

// TestMountHasTheTraceOfTheRegistry mounts an image that was not pulled before.
func TestMountHasTheTraceOfTheRegistry(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", large().layers)
	pushTrace(t, image, startup.File{Trace: touched()})
	metrics := prometheus.NewRegistry()
	n, _ := start(t, node.Config{Metrics: metrics})
	mount(t, n, image)
	requireSet(t, n, fetched(t, n, image, nil), node.TraceRegistry)
	want := "# HELP brisk_start_traces_total Mounts of images by the source of the trace that is prefetched for the start.\n" +
		"# TYPE brisk_start_traces_total counter\nbrisk_start_traces_total{source=\"registry\"} 1\n"
	if err := testutil.GatherAndCompare(metrics, strings.NewReader(want), "brisk_start_traces_total"); err != nil {
		t.Error(err)
	}
}

// TestTraceIsNeverWaitedFor pulls an image whose trace never comes, comes to an end early, is
// none, or is missing: the pull succeeds, and soon.
func TestTraceIsNeverWaitedFor(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", large().layers)
	pushTrace(t, image, startup.File{Trace: touched(), Command: "app"})
	encoded, err := startup.File{Trace: touched(), Command: "app"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	trace := func(req *http.Request) bool { return strings.HasSuffix(req.URL.Path, block.Sum(encoded).String()) }
	for name, fault := range map[string]registrytest.Fault{
		"never":   func(_ http.ResponseWriter, req *http.Request, _ http.Handler) { <-req.Context().Done() },
		"missing": registrytest.Status(http.StatusNotFound),
		"other": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			_, _ = w.Write(bytes.Repeat([]byte{1}, len(encoded))) //nolint:errcheck // the client may have gone
		},
		"endless": func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
			for req.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		},
	} {
		reg.ClearFaults()
		reg.Inject(registrytest.Rule{Match: trace, Fault: fault})
		n, stop := start(t, node.Config{})
		began := time.Now()
		found := fetched(t, n, image, traceOnly)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: the pull took %s", name, took)
		}
		if status := n.ImageStatus(found); status.Start != nil || status.CachedBytes != 0 {
			t.Errorf("%s: %+v, %d bytes", name, status.Start, status.CachedBytes)
		}
		m := mount(t, n, image)
		requireTouched(t, m.Target())
		stop()
	}
}

// TestTraceThatIsNoneIsNotKept pulls an image whose start-up artifact has a blob that is no trace.
func TestTraceThatIsNoneIsNotKept(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", large().layers)
	pushTrace(t, image, startup.File{Trace: touched()})
	c := newClient(t)
	ref, err := c.ParseReference(image)
	if err != nil {
		t.Fatal(err)
	}
	resolved, err := c.Resolve(t.Context(), ref, v1.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	none := []byte("no trace")
	if err := c.PushBlob(t.Context(), ref.Context(), none, registry.TraceMediaType); err != nil {
		t.Fatal(err)
	}
	_, err = c.PushStartup(t.Context(), resolved, registry.Startup{
		Traces: []registry.TraceBlob{{Digest: block.Sum(none), Size: int64(len(none))}},
	}, nil, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	n, _ := start(t, node.Config{})
	found := fetched(t, n, image, traceOnly)
	if _, err := n.Object(block.Sum(none), 100); err == nil || n.ImageStatus(found).Start != nil || len(found.Traces) != 1 {
		t.Errorf("%+v, %v", n.ImageStatus(found).Start, err)
	}
}
