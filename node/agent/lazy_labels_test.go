package agent_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/node/agent"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

func TestOneLookup(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", true, fileLayers(t, 8, 1000)...)
	a := start(t, filepath.Join(t.TempDir(), "brisk"), func(cfg *agent.Config) { cfg.Mode = agent.ModeLazy })
	reg.ResetRequests()
	// Two pulls at the same time, and then all layers.
	var group errgroup.Group
	for i := range 4 {
		group.Go(func() error {
			_, err := a.Prepare(t.Context(), fmt.Sprintf("unpack%d", i), "", snapshots.WithLabels(image.labels(0)))
			return err
		})
	}
	if err := group.Wait(); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	a.pull(t, image)
	seen := make(map[string]int)
	for _, r := range reg.Requests() {
		if seen[r.Method+r.Path]++; seen[r.Method+r.Path] == 2 && strings.Contains(r.Path, "/manifests/sha256:") {
			t.Errorf("asked twice for %s", r.Path)
		}
	}
	if n := len(reg.Requests()); n > 5+2*len(image.layers) {
		t.Errorf("%d requests", n)
	}
}

func TestSameChainOnTwoParents(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", true, fileLayers(t, 2, 1000)...)
	a := start(t, filepath.Join(t.TempDir(), "brisk"), nil)
	// The lowest layer once lazy, and once unpacked under the name that containerd gives.
	a.pull(t, image)
	if _, err := a.Prepare(t.Context(), "extract", ""); err != nil {
		t.Fatal(err)
	}
	if err := a.Commit(t.Context(), "unpacked", "extract"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := a.Prepare(t.Context(), "unpack", "unpacked", snapshots.WithLabels(image.labels(1)))
		if !errdefs.IsAlreadyExists(err) {
			t.Error(err)
		}
	}
	parents := make(map[string]string)
	err := a.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
		parents[info.Parent] = info.Name
		return nil
	}, fmt.Sprintf("labels.%q==%s", snapshots.LabelSnapshotRef, image.chain[1]))
	if err != nil || len(parents) != 2 || parents["unpacked"] == "" || parents[image.chain[0].String()] != image.chain[1].String() {
		t.Errorf("parents and names: %q, %v", parents, err)
	}
	mounts, err := a.View(t.Context(), "view", parents["unpacked"])
	if err != nil {
		t.Fatal(err)
	}
	dir, undo := mountOn(t, mounts)
	defer undo()
	requireFiles(t, dir, image.layers, 2)
}

func TestLabelsOfLazySnapshots(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", true, fileLayers(t, 1, 1000)...)
	a := start(t, filepath.Join(t.TempDir(), "brisk"), nil)
	a.pull(t, image)
	name := image.chain[0].String()
	before, err := a.Stat(t.Context(), name)
	if err != nil || before.Labels["dev.brisk.snapshot.layers"] != "1" {
		t.Fatalf("%+v, %v", before, err)
	}
	forged := map[string]string{"dev.brisk.snapshot.layers": "7", "dev.brisk.snapshot.image": "other", "mine": "yes"}
	for _, fields := range [][]string{nil, {"labels"}, {"labels.dev.brisk.snapshot.layers", "labels.mine"}} {
		after, err := a.Update(t.Context(), snapshots.Info{Name: name, Labels: forged}, fields...)
		if err != nil {
			t.Fatal(err)
		}
		for _, own := range []string{"dev.brisk.snapshot.layers", "dev.brisk.snapshot.image"} {
			if d := cmp.Diff(before.Labels[own], after.Labels[own]); d != "" {
				t.Errorf("%s after an update of %q: %s", own, fields, d)
			}
		}
		if after.Labels["mine"] != "yes" {
			t.Errorf("labels %v", after.Labels)
		}
	}
	// Nobody else can make a snapshot that counts as lazy.
	if _, err := a.Prepare(t.Context(), "forged", "", snapshots.WithLabels(forged)); err != nil {
		t.Fatal(err)
	}
	if err := a.Commit(t.Context(), "forged-done", "forged", snapshots.WithLabels(forged)); err != nil {
		t.Fatal(err)
	}
	info, err := a.Stat(t.Context(), "forged-done")
	if err != nil || info.Labels["dev.brisk.snapshot.image"] != "" {
		t.Errorf("%+v, %v", info, err)
	}
}
