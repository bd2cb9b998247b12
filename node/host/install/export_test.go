package install_test

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/lazyfs/snapshotter"
	"github.com/brisk-project/brisk/node/agent"
	"github.com/brisk-project/brisk/node/host/install"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// pushIndexed pushes an image and its index.
func (s *liveSite) pushIndexed(name string, layers int) registrytest.Image {
	s.t.Helper()
	image := s.push(name, layers)
	client, err := registry.NewClient(registry.Config{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	if _, err := convert.Convert(s.t.Context(), client, s.reg.Ref(s.t, name+":v1"), convert.Config{}); err != nil {
		s.t.Fatal(err)
	}
	return image
}

// lazyLayers returns the digests of the layer streams that are here in full.
func (s *liveSite) lazyLayers() map[digest.Digest]bool {
	s.t.Helper()
	found := make(map[digest.Digest]bool)
	err := s.Client.SnapshotService(containerdtest.Snapshotter).Walk(s.Context(), func(_ context.Context, info snapshots.Info) error {
		id, ok := info.Labels[snapshotter.LabelImage]
		if !ok {
			return nil
		}
		layers, err := strconv.Atoi(info.Labels[snapshotter.LabelLayers])
		if err != nil {
			return err
		}
		path, _, err := agent.Streams{Dir: s.dir}.Stream(id, layers-1)
		if err != nil {
			return err
		}
		file, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer file.Close() //nolint:errcheck // read only
		sum, err := digest.FromReader(file)
		found[sum] = true
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

// awaitComplete waits until all layers of an image are local.
func (s *liveSite) awaitComplete(image registrytest.Image) {
	s.t.Helper()
	containerdtest.Await(s.t, "all layers", containerdtest.Timeout, func() bool {
		have := s.lazyLayers()
		for _, layer := range image.Layers {
			if !have[digest.FromBytes(layer.Tar)] {
				return false
			}
		}
		return true
	})
}

// TestGiveBack uninstalls with images of all kinds: those that are here in full run with the
// former snapshotter, and again with the agent when it comes back.
func TestGiveBack(t *testing.T) {
	for _, former := range []string{"overlayfs", "native"} {
		t.Run(former, func(t *testing.T) { giveBack(t, liveConfig{snapshotter: former, discard: true}) })
	}
}

// TestGiveBackToAnotherDisk does that where files cannot be linked, because the agent is on
// another filesystem.
func TestGiveBackToAnotherDisk(t *testing.T) {
	for _, former := range []string{"overlayfs", "native"} {
		t.Run(former, func(t *testing.T) { giveBack(t, liveConfig{snapshotter: former, discard: true, disk: true}) })
	}
}

func giveBack(t *testing.T, cfg liveConfig) {
	t.Helper()
	s, former := newLiveSite(t, cfg), cfg.snapshotter
	s.layers = map[string]int{"pause": 1, "adopted": 3}
	s.pushAll()
	s.serve()
	s.install()
	lazy, partial := s.pushIndexed("lazy", 3), s.pushIndexed("partial", 2)
	missing := digest.FromBytes(partial.Layers[1].Blob)
	s.reg.Inject(registrytest.Rule{
		Match: func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, missing.String()) },
		Fault: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusBadGateway) },
	})
	s.push("plain", 4)
	for _, name := range []string{"lazy", "partial", "plain"} {
		s.pull(name)
	}
	s.awaitComplete(lazy)
	containerdtest.Await(t, "containerd discarding layers", containerdtest.Timeout, func() bool { return s.discarded("plain") && s.discarded("lazy") })
	s.registryDown()
	s.uninstall(install.UninstallOptions{Purge: true})
	s.reg.ResetRequests() // the agent has tried to load the missing layer
	for _, want := range []string{"unpacked image k8s.io/" + s.refs["lazy"], "unpacked image k8s.io/" + s.refs["plain"], "removing images that are not here in full, from namespace k8s.io: " + s.refs["partial"]} {
		if !strings.Contains(s.out.String(), want) {
			t.Errorf("nothing of %q in\n%s", want, s.out)
		}
	}
	if left := s.snapshots(former); left != 1+3+3+4 {
		t.Errorf("%d snapshots of %s", left, former)
	}
	s.layers = map[string]int{"adopted": 3, "lazy": 3, "plain": 4}
	s.requireAllRun(former)
	s.serve()
	s.install()
	s.requireAllRun(containerdtest.Snapshotter)
	s.uninstall(install.UninstallOptions{})
	s.requireAllRun(former)
	if left := s.snapshots(former); left != 1+3+3+4 {
		t.Errorf("%d snapshots of %s", left, former)
	}
}
