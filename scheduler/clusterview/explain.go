package clusterview

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/brisk-project/brisk/api/compat"
	"github.com/brisk-project/brisk/scheduler/estimate"
	"github.com/brisk-project/brisk/scheduler/index"
)

// namesToLearn bounds how many names of images are remembered.
const namesToLearn = 100_000

// PodExplanation is the output of "kubectl brisk why".
type PodExplanation struct {
	Document

	Pod       string      `json:"pod"`
	Scheduler string      `json:"scheduler"`
	Mode      compat.Mode `json:"mode,omitempty"`
	Node      string      `json:"node,omitempty"`
	// Message is what the scheduler says while the pod has no node.
	Message string           `json:"message,omitempty"`
	Images  []ExplainedImage `json:"images"`
	Nodes   []NodeEstimate   `json:"nodes"`
}

// ExplainedImage is an image of a pod.
type ExplainedImage struct {
	Name  string `json:"name"`
	Known bool   `json:"known"` // to any node
}

// NodeEstimate is the time to ready on a node, as it is now, in seconds, by its terms.
type NodeEstimate struct {
	Node       string  `json:"node"`
	Chosen     bool    `json:"chosen,omitempty"`
	State      string  `json:"state"`
	Seconds    float64 `json:"seconds"`
	Peers      float64 `json:"peersSeconds"`
	Registry   float64 `json:"registrySeconds"`
	Score      int64   `json:"score"`
	Confidence float64 `json:"confidence"`

	Images []index.ImageEstimate `json:"images"`
}

// Explain returns how long a pod would wait on each node, from the view of the cluster.
func (c *View) Explain(ctx context.Context, clients *Clients, namespace, name string) (*PodExplanation, error) {
	pod, err := clients.core.Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading the pod: %w", err)
	}
	var labels map[string]string
	// Who may not read it is told what the pod itself says.
	if space, err := clients.core.Namespaces().Get(ctx, namespace, metav1.GetOptions{}); err == nil {
		labels = space.Labels
	}
	said := &PodExplanation{
		Document: Document{APIVersion, "PodExplanation"}, Pod: namespace + "/" + name, Scheduler: pod.Spec.SchedulerName, Node: pod.Spec.NodeName,
		Mode: compat.ModeOf(pod.Labels, pod.Annotations, labels),
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status != corev1.ConditionTrue {
			said.Message = condition.Message
		}
	}
	known, err := c.learn(pod)
	if err != nil {
		return nil, err
	}
	all := index.New(index.Config{Now: func() time.Time { return c.now }})
	for _, report := range c.reports {
		if _, err := all.Set(report); err != nil && c.broken[report.Name] == nil {
			c.broken[report.Name] = err
		}
	}
	var images []index.Image
	for _, image := range index.PodImages(pod) {
		found := known.Image(image)
		images = append(images, found)
		said.Images = append(said.Images, ExplainedImage{Name: image, Known: all.Query([]index.Image{found}) != nil})
	}
	c.ask(all.Query(images), said)
	return said, nil
}

// learn finds out which digests are behind names, from nodes and from the pod itself.
func (c *View) learn(pod *corev1.Pod) (*index.Names, error) {
	names, err := index.NewNames(namesToLearn)
	if err != nil {
		return nil, fmt.Errorf("remembering names of images: %w", err)
	}
	for i := range c.nodes {
		for _, image := range c.nodes[i].Status.Images {
			names.Add(image.Names...)
		}
	}
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		names.Add(status.Image, status.ImageID)
	}
	return names, nil
}

// ask fills in the nodes, the best first.
func (c *View) ask(query *index.Query, said *PodExplanation) {
	if query == nil {
		return
	}
	var names []string
	for i := range c.nodes {
		names = append(names, c.nodes[i].Name)
	}
	for i, answer := range query.Estimate(names) {
		said.Nodes = append(said.Nodes, NodeEstimate{
			Node: answer.Node, Chosen: answer.Node == said.Node, State: c.state(&c.nodes[i]), Seconds: answer.ReadyTime.Total().Seconds(),
			Peers: answer.ReadyTime.Peers.Seconds(), Registry: answer.ReadyTime.Registry.Seconds(), Score: query.Score(answer.ReadyTime.Total()),
			Confidence: answer.Confidence, Images: answer.Images,
		})
	}
	slices.SortStableFunc(said.Nodes, func(a, b NodeEstimate) int { return cmp.Compare(a.Seconds, b.Seconds) })
}

// Cached is how much of the images is on the node.
func (n NodeEstimate) Cached() int64 {
	var sum int64
	for _, image := range n.Images {
		sum += image.Cached
	}
	return sum
}

// Missing is what the node would load.
func (n NodeEstimate) Missing() estimate.Bytes {
	var sum estimate.Bytes
	for _, image := range n.Images {
		sum.Peers += image.Missing.Peers + image.Queued.Peers
		sum.Registry += image.Missing.Registry + image.Queued.Registry
	}
	return sum
}
