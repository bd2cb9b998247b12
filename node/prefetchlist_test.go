package node_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/node/waterfall"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// listed are the files of a prefetch list of large, two blocks that no start reads.
func listed() startup.Trace {
	return startup.Trace{
		{Layer: touched()[1].Layer, Offset: 6 * block.Size, Length: block.Size},
		{Layer: touched()[0].Layer, Offset: 13 * block.Size, Length: block.Size},
	}
}

// pushList pushes a prefetch list of an image.
func pushList(t *testing.T, reference string, trace startup.Trace) {
	t.Helper()
	c, image := resolve(t, reference)
	found, err := c.FindArtifact(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := artifact.Push(t.Context(), c, image, found.Startup, artifact.Config{
		List: &artifact.List{Content: []byte("/listed\n"), Trace: trace}, Now: time.Now(),
	}); err != nil {
		t.Fatal(err)
	}
}

// requireListed waits until a start-up set of so many blocks is local and pinned.
func requireListed(t *testing.T, n *node.Node, image *node.Image, source node.TraceSource, blocks int) {
	t.Helper()
	want := &node.StartStatus{Bytes: int64(blocks) * block.Size, Source: source, Pinned: true}
	p2ptest.Await(t, "the start-up set", func() bool { return cmp.Equal(want, n.ImageStatus(image).Start) })
}

// TestListComesBeforeAnyTrace pulls an image with a prefetch list: its files are local without having been
// read, before what is recorded, predicted or learnt, which is loaded as well.
func TestListComesBeforeAnyTrace(t *testing.T) {
	require.FUSE(t)
	both := len(listed()) + len(touched())
	for _, source := range []node.TraceSource{node.TraceNone, node.TraceRegistry, node.TracePredicted} {
		reg := registrytest.New(t, registrytest.Config{})
		image := push(t, reg, "app:v1", large().layers)
		want, blocks := node.TraceList, len(listed())
		if source != node.TraceNone {
			pushTrace(t, image, startup.File{Trace: touched(), Predicted: source == node.TracePredicted})
			want, blocks = "list+"+source, both
		}
		pushList(t, image, append(listed(), startup.Span{Layer: block.Sum([]byte("of another image")), Length: 100 * block.Size}))
		dir, metrics := filepath.Join(t.TempDir(), "node"), prometheus.NewRegistry()
		n, stop := start(t, node.Config{Dir: dir, Metrics: metrics, StartRecorder: waterfall.New(nil)})
		found := fetched(t, n, image, traceOnly)
		requireListed(t, n, found, want, blocks)

		client := node.Client{Dir: dir}
		var answer node.TraceResponse
		p2ptest.Await(t, "the socket", func() bool {
			var err error
			answer, err = client.Trace(t.Context(), node.TraceRequest{Image: image, Platform: v1.Platform{OS: "linux", Architecture: "amd64"}})
			return err == nil
		})
		file, err := startup.ParseFile(answer.File)
		if err != nil || answer.Source != want || file.Predicted != (source == node.TracePredicted) || file.List != (source == node.TraceNone) {
			t.Errorf("%s: trace from %s, %+v, %v", source, answer.Source, file, err)
		}
		if diff := cmp.Diff(listed(), file.Trace[:len(listed())]); diff != "" {
			t.Errorf("%s: the trace does not begin with the list:\n%s", source, diff)
		}

		// What starts read on this node does not displace the list, nor does the list show up in it.
		runStart(t, n, dir, image)
		requireListed(t, n, found, "list+learnt", both)
		runStart(t, n, dir, image)
		order := []node.TraceSource{"list+learnt", want}
		slices.Sort(order)
		expected := fmt.Sprintf("# HELP brisk_start_traces_total Mounts of images by the source of the trace that is prefetched for the start.\n"+
			"# TYPE brisk_start_traces_total counter\nbrisk_start_traces_total{source=%q} 1\nbrisk_start_traces_total{source=%q} 1\n", order[0], order[1])
		if err := testutil.GatherAndCompare(metrics, strings.NewReader(expected), "brisk_start_traces_total"); err != nil {
			t.Errorf("%s: %v", source, err)
		}
		recorded, err := n.StartRecord(t.Context(), image)
		if err != nil || recorded.Trace != "list+learnt" || recorded.TraceBytes < int64(len(listed()))*block.Size {
			t.Errorf("%s: recorded start with trace %q of %d bytes, %v", source, recorded.Trace, recorded.TraceBytes, err)
		}

		// Nothing is kept of an image that is gone, and all of it is there at once after a restart.
		stop()
		n, _ = start(t, node.Config{Dir: dir})
		if err := n.Retain(t.Context(), []*node.Image{found}); err != nil {
			t.Fatal(err)
		}
		requireListed(t, n, found, "list+learnt", both)
		if err := n.Retain(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if status := n.ImageStatus(found).Start; status != nil && status.Pinned {
			t.Errorf("%s: after the image was removed: %+v", source, status)
		}
	}
}

// TestMountLoadsTheList mounts an image that was not pulled before: the files of its list are loaded.
func TestMountLoadsTheList(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", large().layers)
	pushList(t, image, listed())
	n, _ := start(t, node.Config{})
	m, err := n.Mount(t.Context(), node.MountRequest{Image: image, Target: t.TempDir(), NoFill: true})
	if err != nil {
		t.Fatal(err)
	}
	requireListed(t, n, fetched(t, n, image, nil), node.TraceList, len(listed()))
	if err := m.Unmount(t.Context()); err != nil {
		t.Error(err)
	}
}
