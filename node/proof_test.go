package node_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/brisk-project/brisk/image/index/indextest"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// pushIndex pushes an image of one layer with an index of the test's choice.
func pushIndex(t *testing.T, reg *registrytest.Registry, ref string, layer registrytest.Layer, encoded []byte) string {
	t.Helper()
	pushed := reg.Push(t, ref, registrytest.Image{Layers: []registrytest.Layer{layer}})
	indextest.Push(t, newClient(t), pushed, encoded)
	return pushed.String()
}

// oneFile is a layer with one file of 1 MiB.
func oneFile(t *testing.T, name string) registrytest.Layer {
	t.Helper()
	l := registrytest.Layer{Level: 1, Tar: registrytest.Tar(t, registrytest.File{Name: name, Data: registrytest.Files(1, 1, 1<<20)[1].Data})}
	l.Blob = registrytest.Compress(t, l)
	return l
}

// pushFalseEntries pushes an image of a layer with an index that has the entries of another one.
func pushFalseEntries(t *testing.T, reg *registrytest.Registry, layer registrytest.Layer) string {
	t.Helper()
	lie := oneFile(t, "bin")
	encoded := indextest.WithEntries(t, indextest.Build(t, layer.Blob).Encoded, indextest.Build(t, lie.Blob).Encoded)
	return pushIndex(t, reg, "forged:v1", layer, encoded)
}

// An index whose entries are not those of the tar is found when the layer has arrived. The
// mount goes on, others are refused, also after a restart; images that are true are not
// touched, though their blocks are the same.
func TestFalseEntriesAreFound(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	layer := oneFile(t, "app")
	forged := pushFalseEntries(t, reg, layer)
	honest := push(t, reg, "honest:v1", []registrytest.Layer{layer})
	metrics := prometheus.NewPedanticRegistry()
	cfg := node.Config{Dir: filepath.Join(t.TempDir(), "node"), Metrics: metrics}
	n, stop := start(t, cfg)
	m := mountWith(t, n, node.MountRequest{Image: forged})
	p2ptest.Await(t, "the index to be found false", func() bool { return m.CheckIndex() != nil })
	if err := m.CheckIndex(); !errors.Is(err, node.ErrFalseIndex) || !strings.Contains(err.Error(), `entry "bin" where the tar has "app"`) {
		t.Errorf("the reason is %v", err)
	}
	if status := m.Status(); status.FalseIndex == "" {
		t.Errorf("status %+v", status)
	}
	data := registrytest.Files(1, 1, 1<<20)[1].Data
	requireFiles(t, m.Target(), map[string][]byte{"bin": data})
	if _, err := n.Mount(t.Context(), node.MountRequest{Image: forged, Target: t.TempDir()}); !errors.Is(err, node.ErrFalseIndex) {
		t.Errorf("the image is mounted again: %v", err)
	}
	requireFiles(t, mount(t, n, honest).Target(), map[string][]byte{"app": data})
	want := `
# HELP brisk_proof_false_indexes_total Layer indexes that were found to be false.
# TYPE brisk_proof_false_indexes_total counter
brisk_proof_false_indexes_total 1
# HELP brisk_proof_layers_total Layers that were read to their end to check what their indexes claim.
# TYPE brisk_proof_layers_total counter
brisk_proof_layers_total 1
`
	if err := testutil.GatherAndCompare(metrics, strings.NewReader(want), "brisk_proof_false_indexes_total", "brisk_proof_layers_total"); err != nil {
		t.Error(err)
	}
	stop()

	cfg.Metrics = nil
	n, _ = start(t, cfg)
	if _, err := n.Mount(t.Context(), node.MountRequest{Image: forged, Target: t.TempDir()}); !errors.Is(err, node.ErrFalseIndex) {
		t.Errorf("the image is mounted after a restart: %v", err)
	}
	requireFiles(t, mount(t, n, honest).Target(), map[string][]byte{"app": data})
}

// An index that steals the diffID of another layer is found, too.
func TestStolenDiffIDIsFound(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	forged := pushForged(t, reg, "forged:v1", oneFile(t, "base"), oneFile(t, "evil"))
	n, _ := start(t, node.Config{})
	m := mountWith(t, n, node.MountRequest{Image: forged})
	p2ptest.Await(t, "the index to be found false", func() bool { return m.CheckIndex() != nil })
	if err := m.CheckIndex(); !strings.Contains(err.Error(), "diffID") {
		t.Errorf("the reason is %v", err)
	}
}

// Once a layer is proven a false index of the same blocks is refused at once, before a byte
// of it is read.
func TestFalseIndexOfProvenLayer(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	layer := oneFile(t, "app")
	honest := push(t, reg, "honest:v1", []registrytest.Layer{layer})
	metrics := prometheus.NewPedanticRegistry()
	n, _ := start(t, node.Config{Metrics: metrics})
	mountWith(t, n, node.MountRequest{Image: honest})
	awaitProven(t, metrics, 1)
	forged := pushFalseEntries(t, reg, layer)
	if _, err := n.Mount(t.Context(), node.MountRequest{Image: forged, Target: t.TempDir()}); !errors.Is(err, node.ErrFalseIndex) {
		t.Errorf("the image is mounted: %v", err)
	}
}

func awaitProven(t *testing.T, metrics prometheus.Gatherer, layers int) {
	t.Helper()
	p2ptest.Await(t, "layers to be proven", func() bool {
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "brisk_proof_layers_total" && f.GetMetric()[0].GetCounter().GetValue() == float64(layers) {
				return true
			}
		}
		return false
	})
}

// A layer without bytes has no block that completes it. That it claims to be another layer
// is found when it is mounted.
func TestEmptyLayerWithStolenDiffID(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	victim := oneFile(t, "base")
	empty := registrytest.Layer{Level: 1}
	empty.Blob = registrytest.Compress(t, empty)
	forged := pushForged(t, reg, "forged:v1", victim, empty)
	n, _ := start(t, node.Config{})
	if _, err := n.Mount(t.Context(), node.MountRequest{Image: forged, Target: t.TempDir()}); !errors.Is(err, node.ErrFalseIndex) {
		t.Errorf("the image is mounted: %v", err)
	}
}

// A layer that was complete before proofs were made, or whose proof is lost, is proven by
// the next process, and a damaged file is no reason not to start.
func TestCompleteLayerIsProvenLater(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	layer := oneFile(t, "app")
	forged := pushFalseEntries(t, reg, layer)
	cfg := node.Config{Dir: filepath.Join(t.TempDir(), "node")}
	n, stop := start(t, cfg)
	m := mountWith(t, n, node.MountRequest{Image: forged})
	p2ptest.Await(t, "the index to be found false", func() bool { return m.CheckIndex() != nil })
	stop()
	if err := os.WriteFile(filepath.Join(cfg.Dir, node.ProofsFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	n, _ = start(t, cfg)
	m = mount(t, n, forged)
	p2ptest.Await(t, "the index to be found false again", func() bool { return m.CheckIndex() != nil })
}

// The proof of a layer goes with the layer, what is false stays known.
func TestProofsOfDroppedLayers(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	layer := oneFile(t, "app")
	image := push(t, reg, "honest:v1", []registrytest.Layer{layer})
	evil := oneFile(t, "evil")
	forged := pushForged(t, reg, "forged:v1", layer, evil)
	cfg := node.Config{Dir: filepath.Join(t.TempDir(), "node")}
	n, _ := start(t, cfg)
	good, bad := mountWith(t, n, node.MountRequest{Image: image}), mountWith(t, n, node.MountRequest{Image: forged})
	stored := func(stream block.Digest) bool {
		content, err := os.ReadFile(filepath.Join(cfg.Dir, node.ProofsFile))
		return err == nil && strings.Contains(string(content), stream.String())
	}
	p2ptest.Await(t, "both to be proven", func() bool { return stored(streamID(layer.Tar)) && bad.CheckIndex() != nil })
	for _, m := range []*node.Mount{good, bad} {
		if err := m.Unmount(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Retain(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if stored(streamID(layer.Tar)) {
		t.Error("the proof of a layer that was dropped is left")
	}
	if bad.CheckIndex() == nil || !stored(streamID(evil.Tar)) {
		t.Error("a false index is forgotten")
	}
}
