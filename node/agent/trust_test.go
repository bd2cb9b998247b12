package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/signature"
	"github.com/brisk-project/brisk/image/signature/signaturetest"
	"github.com/brisk-project/brisk/image/signing"
	"github.com/brisk-project/brisk/lazyfs/snapshotter"
	"github.com/brisk-project/brisk/node/agent"
	"github.com/brisk-project/brisk/node/trust"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// signImage signs what a node uses of an image.
func signImage(t *testing.T, image pushed, pair signaturetest.Pair) {
	t.Helper()
	client, err := registry.NewClient(registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ref, err := client.ParseReference(image.ref)
	if err != nil {
		t.Fatal(err)
	}
	artifacts, err := signing.Find(t.Context(), client, ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := signing.Sign(t.Context(), client, ref.Context(), artifacts, []*signature.Signer{pair.Signer}); err != nil {
		t.Fatal(err)
	}
}

// requiring makes an agent require signatures by the keys in a file.
func requiring(t *testing.T, file string) func(*agent.Config) {
	t.Helper()
	policy := trust.New(t.Context(), trust.Config{
		Rules:    []trust.Rule{{Repositories: []string{"**"}, Signed: true, Keys: []string{file}}},
		Interval: 10 * time.Millisecond,
	})
	client, err := registry.NewClient(registry.Config{Trust: policy})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return func(cfg *agent.Config) {
		cfg.Mode, cfg.Node.Registry, cfg.WatchTrust = agent.ModeLazy, client, policy.Run
	}
}

// An image whose index is not signed by a key of the node is pulled plainly, and says why.
func TestUntrustedIndexIsPulledPlainly(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	layers := fileLayers(t, 2, 600<<10)
	pair, other := signaturetest.NewPair(t), signaturetest.NewPair(t)
	signed, unsigned := push(t, reg, "signed:v1", true, layers...), push(t, reg, "unsigned:v1", true, layers...)
	foreign := push(t, reg, "foreign:v1", true, layers...)
	signImage(t, signed, pair)
	signImage(t, foreign, other)
	metrics := prometheus.NewPedanticRegistry()
	a := start(t, filepath.Join(t.TempDir(), "brisk"), func(cfg *agent.Config) {
		requiring(t, pair.Public)(cfg)
		cfg.Node.Metrics = metrics
	})
	for _, image := range []pushed{unsigned, foreign} {
		if err := a.prepareLayer(t.Context(), image, 0); err != nil {
			t.Errorf("%s is not pulled plainly: %v", image.ref, err)
		}
	}
	for _, pull := range a.agent.Snapshots().Pulls() {
		if pull.Lazy || pull.Reason != snapshotter.ReasonUntrusted || !strings.Contains(pull.Detail, "without a trusted signature") {
			t.Errorf("status %+v", pull)
		}
	}
	want := `
# HELP brisk_snapshotter_pulls_total Images whose layers are loaded when they are read (lazy), or downloaded in full (plain) and why.
# TYPE brisk_snapshotter_pulls_total counter
brisk_snapshotter_pulls_total{mode="plain",reason="untrusted"} 2
`
	if err := testutil.GatherAndCompare(metrics, strings.NewReader(want), "brisk_snapshotter_pulls_total"); err != nil {
		t.Error(err)
	}
	a.pull(t, signed)
	mounts, err := a.Prepare(t.Context(), "container", signed.chain[1].String())
	if err != nil {
		t.Fatal(err)
	}
	root, undo := mountOn(t, mounts)
	requireFiles(t, root, layers, 2)
	undo()
}

// What was pulled before counts after a restart as long as its signature does: offline, and with
// the keys that the node has now.
func TestTrustAfterRestart(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	layers := fileLayers(t, 2, 600<<10)
	pair, next := signaturetest.NewPair(t), signaturetest.NewPair(t)
	signed, unsigned := push(t, reg, "signed:v1", true, layers[:1]...), push(t, reg, "unsigned:v1", true, layers[1:]...)
	signImage(t, signed, pair)
	dir := filepath.Join(t.TempDir(), "brisk")
	keys := filepath.Join(t.TempDir(), "keys.pem")
	install := func(from string) {
		t.Helper()
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		signaturetest.Write(t, keys, content)
	}
	install(pair.Public)
	a := start(t, dir, requiring(t, keys))
	a.pull(t, signed)
	a.stop()
	// Pulled while no signature was required.
	a = start(t, dir, func(cfg *agent.Config) { cfg.Mode = agent.ModeLazy })
	a.pull(t, unsigned)
	a.stop()

	a = start(t, dir, requiring(t, keys))
	refused := func(what string, image pushed) {
		t.Helper()
		_, err := a.Prepare(t.Context(), "refused", image.chain[0].String())
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "without a trusted signature") || !strings.Contains(err.Error(), "then pull again") {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("an image without a signature", unsigned)
	if _, err := a.Prepare(t.Context(), "container", signed.chain[0].String()); err != nil {
		t.Errorf("an image with a signature: %v", err)
	}
	held, err := a.agent.InventoryReader().Read(t.Context())
	if err != nil || len(held.Images) != 1 {
		t.Errorf("offered to the scheduler: %+v, %v", held.Images, err)
	}
	reasons := make(map[string]string)
	status, err := a.agent.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range status.Images {
		reasons[s.Image] = s.Reason
	}
	if reasons[unsigned.ref] != "untrusted" || reasons[signed.ref] != "" {
		t.Errorf("status %v", reasons)
	}
	remove(t, a, unsigned.chain[0].String())
	if err := a.prepareLayer(t.Context(), unsigned, 0); err != nil {
		t.Errorf("pulled again it is not plain: %v", err)
	}
	// A key that is removed takes what it has signed along, without a restart.
	install(next.Public)
	containerdtest.Await(t, "the layer to be hidden", containerdtest.Timeout, func() bool {
		info, err := a.Stat(t.Context(), signed.chain[0].String())
		return err == nil && info.Labels[snapshots.LabelSnapshotRef] == ""
	})
	refused("signed by a key that was removed", signed)
}
