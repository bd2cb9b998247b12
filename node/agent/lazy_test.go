package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node/agent"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// pull does what containerd does to unpack an image whose layers are all lazy.
func (r *running) pull(t *testing.T, image pushed) {
	t.Helper()
	for i := range image.chain {
		if err := r.prepareLayer(t.Context(), image, i); !errdefs.IsAlreadyExists(err) {
			t.Fatalf("layer %d: %v", i, err)
		}
	}
}

func (r *running) prepareLayer(ctx context.Context, image pushed, layer int) error {
	parent := ""
	if layer > 0 {
		parent = image.chain[layer-1].String()
	}
	_, err := r.Prepare(ctx, fmt.Sprintf("unpack %s %d", image.ref, layer), parent, snapshots.WithLabels(image.labels(layer)))
	return err
}

// mountOn mounts a snapshot until undo or the end of the test.
func mountOn(t *testing.T, mounts []mount.Mount) (dir string, undo func()) {
	t.Helper()
	dir = t.TempDir()
	if err := mount.All(mounts, dir); err != nil {
		t.Fatal(err)
	}
	undo = func() {
		if err := mount.UnmountAll(dir, 0); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(undo)
	return dir, undo
}

// requireFiles checks which of the files of fileLayers are in a directory, and that they
// are right.
func requireFiles(t *testing.T, dir string, layers []registrytest.Layer, there int) {
	t.Helper()
	for i := range layers {
		got, err := os.ReadFile(filepath.Join(dir, fileName(i)))
		if i >= there {
			if !os.IsNotExist(err) {
				t.Errorf("file of layer %d: %v", i, err)
			}
			continue
		}
		if want := contentOf(layers[i]); err != nil || !bytes.Equal(got, want) {
			t.Errorf("file of layer %d: %d bytes, %v", i, len(got), err)
		}
	}
}

// contentOf returns the data of the only file in a tar.
func contentOf(l registrytest.Layer) []byte {
	var size int
	if _, err := fmt.Sscanf(string(l.Tar[124:135]), "%o", &size); err != nil {
		panic(err)
	}
	return l.Tar[512 : 512+size]
}

func remove(t *testing.T, sn snapshots.Snapshotter, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if err := sn.Remove(t.Context(), key); err != nil {
			t.Errorf("removing %s: %v", key, err)
		}
	}
}

func TestLazySnapshots(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", true, fileLayers(t, 3, 600<<10)...)
	for _, backend := range lazyfs.Backends() {
		t.Run(string(backend), func(t *testing.T) { testLazySnapshots(t, image, backend) })
	}
}

func testLazySnapshots(t *testing.T, image pushed, backend lazyfs.Backend) {
	t.Helper()
	a := start(t, filepath.Join(t.TempDir(), "brisk"), func(cfg *agent.Config) { cfg.Node.Backend = backend })
	a.pull(t, image)

	var infos []snapshots.Info
	filter := fmt.Sprintf("labels.%q==%s,parent==%q", snapshots.LabelSnapshotRef, image.chain[1], image.chain[0])
	err := a.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
		infos = append(infos, info)
		return nil
	}, filter)
	if err != nil || len(infos) != 1 || infos[0].Kind != snapshots.KindCommitted || infos[0].Name != image.chain[1].String() {
		t.Errorf("walk found %+v, %v", infos, err)
	}
	// Every layer can be looked at and built upon, not only the last.
	for i := range image.chain {
		view, key := fmt.Sprintf("view%d", i), fmt.Sprintf("active%d", i)
		mounts, err := a.View(t.Context(), view, image.chain[i].String())
		if err != nil {
			t.Fatal(err)
		}
		dir, undo := mountOn(t, mounts)
		requireFiles(t, dir, image.layers, i+1)
		if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); err == nil {
			t.Error("a view can be written to")
		}
		undo()
		if mounts, err = a.Prepare(t.Context(), key, image.chain[i].String()); err != nil {
			t.Fatal(err)
		}
		dir, undo = mountOn(t, mounts)
		requireFiles(t, dir, image.layers, i+1)
		if err := os.Remove(filepath.Join(dir, fileName(0))); err != nil {
			t.Error(err)
		}
		undo()
		if err := a.Commit(t.Context(), key+"-done", key); err != nil {
			t.Fatal(err)
		}
		// An ordinary snapshot on a lazy one.
		if mounts, err = a.View(t.Context(), key+"-view", key+"-done"); err != nil {
			t.Fatal(err)
		}
		dir, undo = mountOn(t, mounts)
		if _, err := os.Stat(filepath.Join(dir, fileName(0))); !os.IsNotExist(err) {
			t.Errorf("a removed file is there: %v", err)
		}
		undo()
		remove(t, a, view, key+"-view", key+"-done")
	}
	usage, err := a.Usage(t.Context(), image.chain[2].String())
	if err != nil || usage.Size < 600<<10 || usage.Inodes == 0 {
		t.Errorf("usage %+v, %v", usage, err)
	}
	if err := a.Remove(t.Context(), image.chain[0].String()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("removing a parent: %v", err)
	}
	remove(t, a, image.chain[2].String(), image.chain[1].String(), image.chain[0].String())
	requireNothing(t, a.dir)
	a.pull(t, image)
}

// requireNothing waits until nothing of any image is left.
func requireNothing(t *testing.T, dir string) {
	t.Helper()
	containerdtest.Await(t, "everything being cleaned up", containerdtest.Timeout, func() bool {
		return len(mountsBelow(t, dir)) == 0 && len(residue(t, dir)) == 0
	})
}

func residue(t *testing.T, dir string) []string {
	t.Helper()
	var left []string
	for _, pattern := range []string{"cache/layers/*", "objects/*/*", "mounts/rootfs/*", "snapshotter/snapshots/*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	return left
}

func TestRemoveInUse(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", true, fileLayers(t, 2, 600<<10)...)
	a := start(t, filepath.Join(t.TempDir(), "brisk"), nil)
	a.pull(t, image)
	mapping := map[string]string{
		snapshots.LabelSnapshotUIDMapping: "0:100000:65536", snapshots.LabelSnapshotGIDMapping: "0:200000:65536",
	}
	for name, make := range map[string]func() ([]mount.Mount, error){
		"overlay": func() ([]mount.Mount, error) { return a.Prepare(t.Context(), "used", image.chain[1].String()) },
		"view":    func() ([]mount.Mount, error) { return a.View(t.Context(), "used", image.chain[1].String()) },
		"idmapped": func() ([]mount.Mount, error) {
			return a.Prepare(t.Context(), "used", image.chain[1].String(), snapshots.WithLabels(mapping))
		},
	} {
		t.Run(name, func(t *testing.T) {
			mounts, err := make()
			if err != nil {
				t.Fatal(err)
			}
			dir, undo := mountOn(t, mounts)
			remove(t, a, "used")
			requireFiles(t, dir, image.layers, 2)
			if name == "idmapped" {
				requireOwner(t, filepath.Join(dir, fileName(0)), 100000, 200000)
				requireOwner(t, dir, 100000, 200000)
			}
			if err := a.Snapshotter.(snapshots.Cleaner).Cleanup(t.Context()); err != nil { //nolint:errcheck // it is one
				t.Error(err)
			}
			requireFiles(t, dir, image.layers, 2)
			undo()
			containerdtest.Await(t, "the image being unmounted", containerdtest.Timeout, func() bool {
				return len(mountsBelow(t, a.dir)) == 0
			})
		})
	}
}

// TestTogether makes and removes many snapshots of one image at the same time: while
// somebody uses the image it stays mounted.
func TestTogether(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", true, fileLayers(t, 2, 600<<10)...)
	a := start(t, filepath.Join(t.TempDir(), "brisk"), nil)
	a.pull(t, image)
	var group errgroup.Group
	for worker := range 6 {
		dir := t.TempDir()
		group.Go(func() error {
			for i := range 8 {
				err := a.useOnce(t.Context(), fmt.Sprintf("s%d-%d", worker, i), dir, image, (worker+i)%2)
				if err != nil {
					return fmt.Errorf("worker %d, round %d: %w", worker, i, err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	containerdtest.Await(t, "the image being unmounted", containerdtest.Timeout, func() bool {
		return len(mountsBelow(t, a.dir)) == 0
	})
}

// useOnce makes a snapshot on a layer, reads its file and removes the snapshot.
func (r *running) useOnce(ctx context.Context, key, dir string, image pushed, layer int) error {
	mounts, err := r.Prepare(ctx, key, image.chain[layer].String())
	if err != nil {
		return err
	}
	if err := mount.All(mounts, dir); err != nil {
		return err
	}
	got, err := os.ReadFile(filepath.Join(dir, fileName(layer)))
	if err == nil && !bytes.Equal(got, contentOf(image.layers[layer])) {
		err = errors.New("wrong bytes")
	}
	return errors.Join(err, mount.UnmountAll(dir, 0), r.Remove(ctx, key))
}

func TestAsyncRemove(t *testing.T) {
	require.FUSE(t)
	a := start(t, filepath.Join(t.TempDir(), "brisk"), func(cfg *agent.Config) { cfg.AsyncRemove = true })
	if _, err := a.Prepare(t.Context(), "one", ""); err != nil {
		t.Fatal(err)
	}
	remove(t, a, "one")
	if len(residue(t, a.dir)) != 1 {
		t.Error("the directory is gone already")
	}
	if err := a.Snapshotter.(snapshots.Cleaner).Cleanup(t.Context()); err != nil { //nolint:errcheck // it is one
		t.Fatal(err)
	}
	if got := residue(t, a.dir); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

func TestRestart(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", true, fileLayers(t, 2, 600<<10)...)
	dir := filepath.Join(t.TempDir(), "brisk")
	a := start(t, dir, nil)
	a.pull(t, image)
	if _, err := a.Prepare(t.Context(), "old", image.chain[1].String()); err != nil {
		t.Fatal(err)
	}
	a.stop()
	if err := os.MkdirAll(filepath.Join(dir, "snapshotter/snapshots/999/fs"), 0o700); err != nil {
		t.Fatal(err)
	}
	a = start(t, dir, nil)
	if _, err := a.Prepare(t.Context(), "new", image.chain[1].String()); err != nil {
		t.Fatal(err)
	}
	remove(t, a, "new")
	if len(mountsBelow(t, dir)) == 0 {
		t.Error("a snapshot from before is not counted as a user of the image")
	}
	mounts, err := a.Mounts(t.Context(), "old")
	if err != nil {
		t.Fatal(err)
	}
	mounted, undo := mountOn(t, mounts)
	requireFiles(t, mounted, image.layers, 2)
	undo()
	if _, err := os.Stat(filepath.Join(dir, "snapshotter/snapshots/999")); !os.IsNotExist(err) {
		t.Errorf("a directory without snapshot is there: %v", err)
	}
	remove(t, a, "old", image.chain[1].String(), image.chain[0].String())
	requireNothing(t, dir)
}
