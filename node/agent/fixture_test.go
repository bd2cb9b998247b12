package agent_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	labels "github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/kernel"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/node/agent"
	"github.com/brisk-project/brisk/test/mountns"
	"github.com/brisk-project/brisk/test/registrytest"
)

func TestMain(m *testing.M) {
	if code, done := mountns.Rerun(); done {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m, registrytest.LeakOptions()...)
}

// testLog writes to the log of a test, which is shown when the test fails.
type testLog struct{ t *testing.T }

// Write implements io.Writer.
func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// running is an agent and a client of it.
type running struct {
	agent                 *agent.Agent
	snapshots.Snapshotter // over the socket
	dir                   string
	stop                  func()
}

// start runs an agent until stop or the end of the test.
func start(t *testing.T, dir string, edit func(*agent.Config)) *running {
	t.Helper()
	client, err := registry.NewClient(registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := agent.Config{
		Node: node.Config{
			Dir: dir, CacheBytes: 1 << 30, MemoryBytes: 8 << 20, ReadTimeout: 30 * time.Second, Registry: client,
			Log: slog.New(slog.NewTextHandler(testLog{t}, nil)),
		},
		Socket: filepath.Join(dir, "s.sock"),
		// Machines that run tests are slower than those that run containers.
		LookupTimeout: 20 * time.Second,
	}
	if edit != nil {
		edit(&cfg)
	}
	a, err := agent.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	conn, err := grpc.NewClient("unix://"+cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		client.Close()
	})
	t.Cleanup(stop)
	return &running{
		agent: a, Snapshotter: proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "brisk"), dir: dir, stop: stop,
	}
}

// pushed is an image in a registry.
type pushed struct {
	ref      string // by digest
	manifest string
	layers   []registrytest.Layer
	chain    []digest.Digest
}

func push(t *testing.T, reg *registrytest.Registry, ref string, indexed bool, layers ...registrytest.Layer) pushed {
	t.Helper()
	var diffs []digest.Digest
	for i, l := range layers {
		if l.Blob == nil {
			layers[i].Blob = registrytest.Compress(t, l)
		}
		diffs = append(diffs, digest.FromBytes(l.Tar))
	}
	name := reg.Push(t, ref, registrytest.Image{Layers: layers})
	if indexed {
		client, err := registry.NewClient(registry.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := convert.Convert(t.Context(), client, name, convert.Config{}); err != nil {
			t.Fatal(err)
		}
	}
	return pushed{ref: name.String(), manifest: name.DigestStr(), layers: layers, chain: identity.ChainIDs(diffs)}
}

// labels are what containerd says of a layer when it wants to unpack it.
func (p pushed) labels(layer int) map[string]string {
	return map[string]string{
		snapshots.LabelSnapshotRef:       p.chain[layer].String(),
		labels.TargetRefLabel:            p.ref,
		labels.TargetManifestDigestLabel: p.manifest,
		labels.TargetLayerDigestLabel:    block.Sum(p.layers[layer].Blob).String(),
	}
}

// fileLayers returns n layers, each with one file of size bytes named as its number.
func fileLayers(t *testing.T, n, size int) []registrytest.Layer {
	t.Helper()
	var made []registrytest.Layer
	for i := range n {
		data := registrytest.Files(uint64(i+1), 1, size)[1].Data
		made = append(made, registrytest.Layer{
			Level: 1, Tar: registrytest.Tar(t, registrytest.File{Name: fileName(i), Data: data}),
		})
	}
	return made
}

func fileName(layer int) string { return "file-" + string(rune('a'+layer)) }

// mountsBelow returns the mounts on and below a directory.
func mountsBelow(t *testing.T, dir string) []string {
	t.Helper()
	all, err := kernel.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	var points []string
	for _, m := range all {
		if strings.HasPrefix(m.Point, dir+"/") {
			points = append(points, m.Point)
		}
	}
	return points
}

func requireOwner(t *testing.T, path string, uid, gid uint32) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid != uid || stat.Gid != gid {
		t.Errorf("%s belongs to %d:%d, not to %d:%d", path, stat.Uid, stat.Gid, uid, gid)
	}
}
