package nodeblocks_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/brisk-project/brisk/api/client"
	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/control/nodeblocks"
	"github.com/brisk-project/brisk/test/controlplane"
)

const patience = time.Minute

// cluster is a control plane with our definitions, and clients with all rights.
type cluster struct {
	*controlplane.ControlPlane
	core    kubernetes.Interface
	objects *client.NodeBlocks
}

// TestCluster holds all tests here, for it takes seconds to start an API server.
func TestCluster(t *testing.T) {
	c := cluster{ControlPlane: controlplane.Start(t)}
	c.Apply(t, "deploy/crds/*.yaml", "deploy/policy/*.yaml")
	var err error
	if c.core, err = kubernetes.NewForConfig(c.Admin); err != nil {
		t.Fatal(err)
	}
	c.objects = objectsOf(t, c.Admin)
	t.Run("Definition", c.testDefinition)
	t.Run("Table", c.testTable)
	t.Run("Publisher", c.testPublisher)
	t.Run("LostAPIServer", c.testLostAPIServer)
	t.Run("Members", c.testMembers)
	t.Run("Policy", c.testPolicy)
	t.Run("Agent", c.testAgent)
}

func objectsOf(t *testing.T, cfg *rest.Config) *client.NodeBlocks {
	t.Helper()
	made, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return made.NodeBlocks()
}

func metadataOf(t *testing.T, cfg *rest.Config) metadata.Interface {
	t.Helper()
	made, err := metadata.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// node makes a node with labels.
func (c *cluster) node(t *testing.T, name string, labels map[string]string) *corev1.Node {
	t.Helper()
	made, err := c.core.CoreV1().Nodes().Create(t.Context(),
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func (c *cluster) labelsOf(t *testing.T, name string) map[string]string {
	t.Helper()
	node, err := c.core.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return node.Labels
}

// state is what an agent knows.
type state struct {
	mu     sync.Mutex
	report nodeblocks.Report
}

// Report implements [nodeblocks.Reporter].
func (s *state) Report(context.Context) nodeblocks.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report
}

func (s *state) change(edit func(*nodeblocks.Report)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	edit(&s.report)
}

func healthy() *state {
	return &state{report: nodeblocks.Report{Status: v1alpha1.NodeBlocksStatus{
		Healthy: true, Backend: "erofs", Version: "v0.1.0", Cache: v1alpha1.CacheStatus{CapacityBytes: 20 << 30, FreeBytes: 10 << 30},
		Peer: &v1alpha1.PeerStatus{ID: "12D3KooWGRUVh2yKZbF5vTqPMRmuGoTbW6GBnvCPDDJWFZ8dyKFJ", Addresses: []string{"/ip4/10.0.0.1/tcp/4077"}},
	}}}
}

// await waits until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

// publish runs a publisher until the function that it returns is called.
func publish(t *testing.T, cfg *rest.Config, node string, known *state) (stop func()) {
	t.Helper()
	publisher, err := nodeblocks.New(nodeblocks.Config{
		Node: node, Reporter: known, Objects: objectsOf(t, cfg),
		Nodes:    metadataOf(t, cfg).Resource(corev1.SchemeGroupVersion.WithResource("nodes")),
		Schedule: nodeblocks.ScheduleConfig{MinInterval: 200 * time.Millisecond, Debounce: 50 * time.Millisecond}, Poll: 20 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- publisher.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}
