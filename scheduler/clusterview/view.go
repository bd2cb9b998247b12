package clusterview

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/brisk-project/brisk/api/client"
	"github.com/brisk-project/brisk/api/compat"
	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/scheduler/index"
)

// View is what is known of a cluster at one moment. Its methods may be called concurrently.
type View struct {
	now     time.Time
	nodes   []corev1.Node                   // sorted by name
	reports map[string]*v1alpha1.NodeBlocks // by node
	images  map[string][]v1alpha1.ImageBlocks
	broken  map[string]error // what is wrong with a report, by node
}

// Clients read a cluster. They are safe for concurrent use.
type Clients struct {
	core    *typedcorev1.CoreV1Client
	reports *client.Client
}

// NewClients returns clients that reach a cluster as config says. It does not touch the
// network.
func NewClients(config *rest.Config) (*Clients, error) {
	reports, err := client.New(config)
	if err != nil {
		return nil, err
	}
	core, err := typedcorev1.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	return &Clients{core: core, reports: reports}, nil
}

// Load reads what is known of all nodes.
func (c *Clients) Load(ctx context.Context) (*View, error) {
	nodes, err := c.core.Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	list, err := c.reports.NodeBlocks().List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("listing NodeBlocks: %w; is Brisk installed in this cluster?", err)
	}
	if err != nil {
		return nil, fmt.Errorf("listing NodeBlocks: %w", err)
	}
	return newView(time.Now(), nodes.Items, list.Items), nil
}

// newView returns what is known of a cluster with these nodes and reports.
func newView(now time.Time, nodes []corev1.Node, reports []v1alpha1.NodeBlocks) *View {
	c := &View{
		now: now, nodes: nodes, reports: make(map[string]*v1alpha1.NodeBlocks),
		images: make(map[string][]v1alpha1.ImageBlocks), broken: make(map[string]error),
	}
	slices.SortFunc(c.nodes, func(a, b corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	for i := range reports {
		report := &reports[i]
		c.reports[report.Name] = report
		images, err := v1alpha1.DecodeImages(report.Status.Images)
		if err != nil {
			c.broken[report.Name] = err
		}
		c.images[report.Name] = images
	}
	return c
}

// state says in a few words what is to be expected of the agent of a node.
func (c *View) state(node *corev1.Node) string {
	report := c.reports[node.Name]
	switch {
	case report == nil:
		return "no agent"
	case c.broken[node.Name] != nil:
		return c.broken[node.Name].Error()
	case compat.NodeDisabled(node.Labels, node.Annotations):
		return "disabled"
	case !report.Status.Healthy && report.Status.Message != "":
		return "not healthy: " + report.Status.Message
	case !report.Status.Healthy:
		return "not healthy"
	case c.age(report) > index.DefaultGoneAfter:
		return "silent"
	case !compat.IsAccelerated(node.Labels):
		return "healthy, not labelled"
	default:
		return "accelerated"
	}
}

// age is that of a report.
func (c *View) age(report *v1alpha1.NodeBlocks) time.Duration {
	return max(c.now.Sub(report.Status.ObservedAt.Time), 0)
}

// names returns a name for every image that nodes know by name: tags rather than digests.
func (c *View) names() map[v1alpha1.ImageKey]string {
	names := make(map[v1alpha1.ImageKey]string)
	for i := range c.nodes {
		for _, image := range c.nodes[i].Status.Images {
			addNames(names, image.Names)
		}
	}
	return names
}

// addNames adds the best of the names of one image.
func addNames(names map[v1alpha1.ImageKey]string, of []string) {
	best := ""
	for _, name := range of {
		if best == "" || strings.Contains(best, "@") {
			best = name
		}
	}
	for _, name := range of {
		if _, digest, ok := strings.Cut(name, "@"); ok {
			if key, err := v1alpha1.KeyOf(digest); err == nil {
				names[key] = best
			}
		}
	}
}

// keyName stands for an image that no node knows by name.
func keyName(key v1alpha1.ImageKey) string { return fmt.Sprintf("sha256:%010x...", uint64(key)) }
