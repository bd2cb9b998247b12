package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/brisk-project/brisk/image/index/indextest"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/lazyfs/snapshotter"
	"github.com/brisk-project/brisk/node/agent"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// pushFalse pushes an image whose lowest layer has an index with another name for its file.
func pushFalse(t *testing.T, reg *registrytest.Registry, ref string, layers ...registrytest.Layer) pushed {
	t.Helper()
	image := push(t, reg, ref, false, layers...)
	client, err := registry.NewClient(registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var indexes [][]byte
	for _, layer := range image.layers {
		indexes = append(indexes, indextest.Build(t, layer.Blob).Encoded)
	}
	lie := registrytest.Tar(t, registrytest.File{Name: falseName, Data: contentOf(layers[0])})
	indexes[0] = indextest.WithEntries(t, indexes[0], indextest.Build(t, lie).Encoded)
	name, err := client.ParseReference(image.ref)
	if err != nil {
		t.Fatal(err)
	}
	indextest.Push(t, client, name, indexes...)
	return image
}

const falseName = "file-false"

// awaitQuarantine waits until the status says that an image has a false index.
func (r *running) awaitQuarantine(t *testing.T, image pushed) {
	t.Helper()
	containerdtest.Await(t, "the image to be quarantined", containerdtest.Timeout, func() bool {
		status, err := r.agent.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range status.Images {
			if s.Image == image.ref && s.Reason == string(snapshotter.ReasonFalseIndex) && strings.Contains(s.Detail, falseName) {
				return true
			}
		}
		return false
	})
}

// requireRefused checks that an error says what to do about a quarantined chain.
func requireRefused(t *testing.T, what string, err error, remove ...string) {
	t.Helper()
	if !errdefs.IsFailedPrecondition(err) {
		t.Fatalf("%s: %v", what, err)
	}
	for _, part := range append(remove, "layers are quarantined", falseName, "then pull again") {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: the error does not say %q: %v", what, part, err)
		}
	}
}

// Nothing new stands on a chain with a false index, be it of the same image or of a plain
// one, also after a restart. Once the image is removed its next pull is plain.
func TestFalseIndexIsQuarantined(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	layers := fileLayers(t, 3, 600<<10)
	image := pushFalse(t, reg, "false:v1", layers[:2]...)
	plain := push(t, reg, "plain:v1", false, layers[0], layers[2])
	dir := filepath.Join(t.TempDir(), "brisk")
	a := start(t, dir, func(cfg *agent.Config) { cfg.Mode = agent.ModeLazy })
	a.pull(t, image)
	mounts, err := a.Prepare(t.Context(), "before", image.chain[1].String())
	if err != nil {
		t.Fatal(err)
	}
	root, undo := mountOn(t, mounts)
	for _, name := range []string{falseName, fileName(1)} {
		if _, err := readAll(root, name); err != nil {
			t.Error(err)
		}
	}
	a.awaitQuarantine(t, image)
	if _, err := readAll(root, falseName); err != nil {
		t.Errorf("a container that was there before: %v", err)
	}
	refused := func() {
		t.Helper()
		_, err := a.Prepare(t.Context(), "after", image.chain[1].String())
		requireRefused(t, "a container", err, image.ref)
		_, err = a.View(t.Context(), "view", image.chain[0].String())
		requireRefused(t, "a view", err, image.ref)
		requireRefused(t, "a layer of a plain image", a.prepareLayer(t.Context(), plain, 1), image.ref)
	}
	refused()
	if _, err := a.Mounts(t.Context(), "before"); err != nil {
		t.Errorf("a container that was there before: %v", err)
	}
	if held, err := a.agent.InventoryReader().Read(t.Context()); err != nil || len(held.Images) != 0 {
		t.Errorf("the image is offered to the scheduler: %+v, %v", held.Images, err)
	}
	undo()
	a.stop()

	a = start(t, dir, func(cfg *agent.Config) { cfg.Mode = agent.ModeLazy })
	refused()
	remove(t, a, "before", image.chain[1].String(), image.chain[0].String())
	if err := a.prepareLayer(t.Context(), image, 0); err != nil {
		t.Errorf("the next pull is not plain: %v", err)
	}
	pulls := a.agent.Snapshots().Pulls()
	if last := pulls[len(pulls)-1]; last.Image != image.ref || last.Lazy || last.Reason != snapshotter.ReasonFalseIndex {
		t.Errorf("status of the next pull: %+v", last)
	}
	// An image that is nothing but these layers is unpacked on them as ever.
	if err := a.Commit(t.Context(), image.chain[0].String(), "unpack "+image.ref+" 0"); err != nil {
		t.Fatal(err)
	}
	if err := a.prepareLayer(t.Context(), plain, 1); err != nil {
		t.Errorf("a plain image on the unpacked layer: %v", err)
	}
}

func readAll(dir, name string) (int, error) {
	content, err := os.ReadFile(filepath.Join(dir, name))
	return len(content), err
}

// Images with true indexes go on, though they share the layer whose index is false, and
// containerd has the false one below them.
func TestTrueImageOnQuarantinedChain(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	layers := fileLayers(t, 2, 600<<10)
	lie := pushFalse(t, reg, "false:v1", layers[:1]...)
	honest := push(t, reg, "honest:v1", true, layers...)
	metrics := prometheus.NewPedanticRegistry()
	a := startMode(t, func(cfg *agent.Config) { cfg.Node.Metrics = metrics })
	a.pull(t, lie)
	a.awaitQuarantine(t, lie)
	if err := a.prepareLayer(t.Context(), honest, 1); !errdefs.IsAlreadyExists(err) {
		t.Fatalf("the image is not lazy: %v", err)
	}
	mounts, err := a.Prepare(t.Context(), "container", honest.chain[1].String())
	if err != nil {
		t.Fatal(err)
	}
	root, undo := mountOn(t, mounts)
	requireFiles(t, root, layers, 2)
	undo()
	want := `
# HELP brisk_proof_false_indexes_total Layer indexes that were found to be false.
# TYPE brisk_proof_false_indexes_total counter
brisk_proof_false_indexes_total 1
`
	if err := testutil.GatherAndCompare(metrics, strings.NewReader(want), "brisk_proof_false_indexes_total"); err != nil {
		t.Error(err)
	}
}

// A pull in another namespace of containerd is not given the layer that is quarantined in
// the first.
func TestQuarantinedLayerIsHiddenFromPulls(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	layers := fileLayers(t, 1, 600<<10)
	lie := pushFalse(t, reg, "false:v1", layers...)
	honest := push(t, reg, "honest:v1", true, layers...)
	a := startMode(t, nil)
	a.pull(t, lie)
	a.awaitQuarantine(t, lie)
	containerdtest.Await(t, "the layer to be hidden", containerdtest.Timeout, func() bool {
		info, err := a.Stat(t.Context(), lie.chain[0].String())
		if err != nil {
			t.Fatal(err)
		}
		return info.Labels[snapshots.LabelSnapshotRef] == ""
	})
	a.pull(t, honest)
	var named []string
	filter := "labels.\"" + snapshots.LabelSnapshotRef + "\"==" + honest.chain[0].String()
	collect := func(_ context.Context, info snapshots.Info) error { named = append(named, info.Name); return nil }
	if err := a.Walk(t.Context(), collect, filter); err != nil || len(named) != 1 {
		t.Fatalf("containerd finds %q, %v", named, err)
	}
	mounts, err := a.Prepare(t.Context(), "container", named[0])
	if err != nil {
		t.Fatal(err)
	}
	root, undo := mountOn(t, mounts)
	requireFiles(t, root, layers, 1)
	undo()
}
