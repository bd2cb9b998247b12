package node_test

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// TestNodeLearnsTraceThatItIsGiven asks a node over its socket for traces, and gives it one.
func TestNodeLearnsTraceThatItIsGiven(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", large().layers)
	dir := filepath.Join(t.TempDir(), "node")
	n, _ := start(t, node.Config{Dir: dir})
	client := node.Client{Dir: dir}
	p2ptest.Await(t, "the socket", func() bool { _, err := client.Status(t.Context()); return err == nil })
	req := node.TraceRequest{Image: image, Platform: v1.Platform{OS: "linux", Architecture: "amd64"}}
	if got, err := client.Trace(t.Context(), req); err != nil || got.Source != node.TraceNone || len(got.File) > 0 {
		t.Errorf("before a start: %+v, %v", got, err)
	}
	for name, file := range map[string]startup.File{
		"no trace": {}, "another image": {Trace: startup.Trace{{Layer: block.Sum([]byte("other")), Length: startup.PageSize}}},
	} {
		encoded, err := file.Encode()
		if err != nil {
			t.Fatal(err)
		}
		req.File = encoded
		if got, err := client.AddTrace(t.Context(), req); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if req.File = []byte("none"); len(traces(t, dir)) > 0 {
		t.Error("a node has learnt what is not of the image")
	}
	if got, err := client.AddTrace(t.Context(), req); err == nil {
		t.Errorf("damaged: %+v", got)
	}
	encoded, err := startup.File{Trace: wide(), Command: "app"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	req.File = encoded
	learnt, err := client.AddTrace(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	asked, err := client.Trace(t.Context(), node.TraceRequest{Image: image, Platform: req.Platform})
	if diff := cmp.Diff(learnt, asked); err != nil || diff != "" || asked.Source != node.TraceRecorded {
		t.Errorf("%v\n%s", err, diff)
	}
	got, err := startup.Parse(asked.File)
	if diff := cmp.Diff(touched(), got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	requireSet(t, n, fetched(t, n, image, traceOnly), node.TraceRecorded)
}
