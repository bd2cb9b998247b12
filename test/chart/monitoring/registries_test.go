package monitoring

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"

	_ "github.com/brisk-project/brisk/api/config/scheme" // the arguments of BlockLocality
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/node/agent"
	"github.com/brisk-project/brisk/scheduler"
	"github.com/brisk-project/brisk/test/mountns"
	"github.com/brisk-project/brisk/test/require"
)

func TestMain(m *testing.M) {
	if code, done := mountns.Rerun(); done {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// registered returns the metrics that an agent with peers and a scheduler have registered,
// with the names of their labels.
func registered(t *testing.T) map[string]map[string]bool {
	t.Helper()
	require.FUSE(t)
	reg := prometheus.NewRegistry()
	client, err := registry.NewClient(registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	a, err := agent.New(t.Context(), agent.Config{Node: node.Config{
		Dir: t.TempDir(), CacheBytes: 1 << 30, MemoryBytes: 8 << 20, Registry: client, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Metrics: reg,
	}})
	if err != nil {
		t.Fatal(err)
	}
	registerScheduler(t, reg)
	metrics := described(reg)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if len(metrics) < 30 {
		t.Fatalf("%d metrics", len(metrics))
	}
	return metrics
}

func registerScheduler(t *testing.T, reg prometheus.Registerer) {
	t.Helper()
	args, _, err := scheme.Codecs.UniversalDecoder().Decode(
		[]byte(`{"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "BlockLocalityArgs"}`), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	handle, err := frameworkruntime.NewFramework(t.Context(), nil, nil,
		frameworkruntime.WithInformerFactory(informers.NewSharedInformerFactory(fake.NewClientset(), 0)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := scheduler.Factory(reg)(t.Context(), args, handle); err != nil {
		t.Fatal(err)
	}
}

var (
	fullName       = regexp.MustCompile(`fqName: "([^"]+)"`)
	constLabel     = regexp.MustCompile(`([a-z_]+)="`)
	variableLabels = regexp.MustCompile(`variableLabels: \{([^}]*)\}`)
)

// described returns what collectors say of their metrics, also of those without a value yet.
func described(reg *prometheus.Registry) map[string]map[string]bool {
	all := make(chan *prometheus.Desc)
	go func() {
		defer close(all)
		reg.Describe(all)
	}()
	metrics := make(map[string]map[string]bool)
	for desc := range all {
		text := desc.String()
		name := fullName.FindStringSubmatch(text)[1]
		labels := metrics[name]
		if labels == nil {
			labels = make(map[string]bool)
			metrics[name] = labels
		}
		_, constant, _ := strings.Cut(text, "constLabels: {")
		for _, label := range constLabel.FindAllStringSubmatch(constant, -1) {
			labels[label[1]] = true
		}
		for label := range strings.SplitSeq(variableLabels.FindStringSubmatch(text)[1], ",") {
			if label != "" {
				labels[label] = true
			}
		}
	}
	return metrics
}

func TestDescribedListsLabelsOfAllKinds(t *testing.T) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		prometheus.NewCounterVec(prometheus.CounterOpts{Name: "brisk_first_total", Help: `a "b": {}`}, []string{"class", "reason"}),
		prometheus.NewGauge(prometheus.GaugeOpts{Name: "brisk_second", Help: "h", ConstLabels: prometheus.Labels{"state": "x"}}),
		prometheus.NewGauge(prometheus.GaugeOpts{Name: "brisk_third", Help: "h"}))
	got := described(reg)
	if len(got) != 3 || len(got["brisk_third"]) != 0 || !got["brisk_second"]["state"] || !got["brisk_first_total"]["class"] || !got["brisk_first_total"]["reason"] {
		t.Errorf("got %v", got)
	}
}
