package agent_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/lazyfs/snapshotter"
	"github.com/brisk-project/brisk/node/agent"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

func TestReasons(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	layers := fileLayers(t, 2, 1000)
	plain, indexed := push(t, reg, "plain:v1", false, layers...), push(t, reg, "indexed:v1", true, layers...)
	gone := indexed
	gone.ref = strings.Replace(indexed.ref, "indexed", "gone", 1)
	other := indexed
	other.chain = slices.Clone(indexed.chain)
	other.chain[0] = other.chain[1]
	unnamed := indexed
	unnamed.ref = ""
	wrong := indexed
	wrong.manifest = "sha256:nonsense"
	dead := indexed
	dead.ref = strings.Replace(indexed.ref, strings.SplitAfter(indexed.ref, "/")[0], "127.0.0.1:1/", 1)

	private := registrytest.New(t, registrytest.Config{Auth: registrytest.AuthToken})
	denied := push(t, private, "app:v1", false, layers...)
	private.ResetRequests()
	odd := registrytest.New(t, registrytest.Config{})
	internal := push(t, odd, "app:v1", false, layers...)
	odd.Inject(registrytest.Rule{Match: registrytest.Manifests, Fault: registrytest.Status(http.StatusTeapot)})

	for reason, image := range map[snapshotter.Reason]pushed{
		snapshotter.ReasonDenied: denied, snapshotter.ReasonInternal: internal,
		snapshotter.ReasonNoIndex: plain, snapshotter.ReasonNotFound: gone, snapshotter.ReasonMismatch: other,
		snapshotter.ReasonNoLabels: unnamed, snapshotter.ReasonInvalid: wrong, snapshotter.ReasonUnreachable: dead,
	} {
		t.Run(string(reason), func(t *testing.T) {
			metrics := prometheus.NewPedanticRegistry()
			a := start(t, filepath.Join(t.TempDir(), "brisk"), func(cfg *agent.Config) { cfg.Node.Metrics = metrics })
			if err := a.prepareLayer(t.Context(), image, 0); err != nil {
				t.Errorf("the pull fails: %v", err)
			}
			want := fmt.Sprintf(`
# HELP brisk_snapshotter_pulls_total Images whose layers are loaded when they are read (lazy), or downloaded in full (plain) and why.
# TYPE brisk_snapshotter_pulls_total counter
brisk_snapshotter_pulls_total{mode="plain",reason=%q} 1
`, reason)
			if reason == snapshotter.ReasonMismatch {
				want = strings.Replace(want, "counter\n", "counter\n"+`brisk_snapshotter_pulls_total{mode="lazy",reason=""} 1`+"\n", 1)
			}
			if err := testutil.GatherAndCompare(metrics, strings.NewReader(want), "brisk_snapshotter_pulls_total"); err != nil {
				t.Error(err)
			}
			pulls := a.agent.Snapshots().Pulls()
			if reason == snapshotter.ReasonNoLabels {
				return
			}
			if len(pulls) != 1 || pulls[0].Reason != reason || pulls[0].Detail == "" || pulls[0].Image != image.ref {
				t.Errorf("status %+v", pulls)
			}
		})
	}
}

// pushPartial pushes an image once more, with an index of its lower layers.
func pushPartial(t *testing.T, reg *registrytest.Registry, whole pushed, ref string, indexed int) pushed {
	t.Helper()
	client, err := registry.NewClient(registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	name, err := client.ParseReference(whole.ref)
	if err != nil {
		t.Fatal(err)
	}
	image, err := client.Resolve(t.Context(), name, v1.Platform{})
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := client.FindArtifact(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	again := push(t, reg, ref, false, whole.layers...)
	repo := reg.Ref(t, ref).Context()
	for _, entry := range artifact.Indexes[:indexed] {
		content, err := client.ReadBlob(t.Context(), name.Context(), entry.Digest, entry.Size, registry.MaxIndexBlob)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.PushBlob(t.Context(), repo, content, registry.LayerMediaType); err != nil {
			t.Fatal(err)
		}
	}
	manifest, err := registry.EncodeArtifact(image.Descriptor, artifact.Indexes[:indexed])
	if err != nil {
		t.Fatal(err)
	}
	if err := client.PushArtifact(t.Context(), repo, manifest); err != nil {
		t.Fatal(err)
	}
	return again
}

// TestPartialIndex pulls an image whose uppermost layer has no index.
func TestPartialIndex(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	layers := fileLayers(t, 3, 1000)
	image := pushPartial(t, reg, push(t, reg, "whole/app:v1", true, layers...), "app:v1", 2)
	a := start(t, filepath.Join(t.TempDir(), "brisk"), nil)
	for i, lazy := range []bool{true, true, false} {
		err := a.prepareLayer(t.Context(), image, i)
		if lazy != errdefs.IsAlreadyExists(err) || (!lazy && err != nil) {
			t.Errorf("layer %d: %v", i, err)
		}
	}
	pulls := a.agent.Snapshots().Pulls()
	if len(pulls) != 1 || !pulls[0].Lazy || pulls[0].Reason != snapshotter.ReasonPartialIndex {
		t.Errorf("status %+v", pulls)
	}
}

// TestHangingIndex pulls an image whose index is there, but does not arrive.
func TestHangingIndex(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", true, fileLayers(t, 2, 1000)...)
	const patience = 3 * time.Second
	a := start(t, filepath.Join(t.TempDir(), "brisk"), func(cfg *agent.Config) { cfg.LookupTimeout = patience })
	var blobs atomic.Int32
	reg.Inject(registrytest.Rule{
		Match: func(r *http.Request) bool {
			// The first blob is the configuration, which belongs to the look-up.
			return strings.Contains(r.URL.Path, "/blobs/") && blobs.Add(1) > 1
		},
		Fault: registrytest.Hang(-1),
	})
	defer reg.ClearFaults()
	asked := time.Now()
	if err := a.prepareLayer(t.Context(), image, 0); err != nil {
		t.Errorf("the pull fails: %v", err)
	}
	if took := time.Since(asked); took < patience-time.Second || took > patience+8*time.Second {
		t.Errorf("it took %s", took)
	}
	if pulls := a.agent.Snapshots().Pulls(); len(pulls) != 1 || pulls[0].Reason != snapshotter.ReasonSlow {
		t.Errorf("status %+v", pulls)
	}
}
