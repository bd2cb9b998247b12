package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/brisk-project/brisk/api/compat"
	"github.com/brisk-project/brisk/internal/units"
	"github.com/brisk-project/brisk/scheduler/index"
)

// namesToLearn bounds how many names of images are remembered.
const namesToLearn = 100_000

// explanation is what is told of a pod.
type explanation struct {
	Pod       string      `json:"pod"`
	Scheduler string      `json:"scheduler"`
	Mode      compat.Mode `json:"mode,omitempty"`
	Node      string      `json:"node,omitempty"`
	// Message is what the scheduler says while the pod has no node.
	Message string         `json:"message,omitempty"`
	Images  []explainImage `json:"images"`
	Nodes   []explainNode  `json:"nodes"`
}

type explainImage struct {
	Name  string `json:"name"`
	Known bool   `json:"known"` // to any node
}

// explainNode is the time to ready on a node, as it is now, in seconds, by its terms.
type explainNode struct {
	Node       string  `json:"node"`
	Chosen     bool    `json:"chosen,omitempty"`
	State      string  `json:"state"`
	Seconds    float64 `json:"seconds"`
	Peers      float64 `json:"peersSeconds"`
	Registry   float64 `json:"registrySeconds"`
	Score      int64   `json:"score"`
	Confidence float64 `json:"confidence"`

	Images []index.ImageAnswer `json:"images"`
}

func (o *options) newWhyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "why POD",
		Short: "Say how long a pod would wait for its images on each node, and what for",
		Long: `Say how long a pod would wait for its images on each node, and what for.

The times are what the scheduler would take them for now. What it has promised to pods on
their way is known to it alone.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			namespace, _, err := o.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return fmt.Errorf("finding the namespace: %w", err)
			}
			c, err := o.load(cmd.Context())
			if err != nil {
				return err
			}
			said, err := c.explain(cmd.Context(), namespace, strings.TrimPrefix(args[0], "pod/"))
			if err != nil {
				return err
			}
			if o.format == formatJSON {
				return printJSON(cmd.OutOrStdout(), said)
			}
			return said.table().print(cmd.OutOrStdout(), o.format)
		},
	}
}

// explain says how long a pod would wait on each node.
func (c *cluster) explain(ctx context.Context, namespace, name string) (*explanation, error) {
	pod, err := c.core.Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading the pod: %w", err)
	}
	var labels map[string]string
	// Who may not read it is told what the pod itself says.
	if space, err := c.core.Namespaces().Get(ctx, namespace, metav1.GetOptions{}); err == nil {
		labels = space.Labels
	}
	said := &explanation{
		Pod: namespace + "/" + name, Scheduler: pod.Spec.SchedulerName, Node: pod.Spec.NodeName,
		Mode: compat.Wanted(pod.Labels, pod.Annotations, labels),
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
		said.Images = append(said.Images, explainImage{Name: image, Known: all.Query([]index.Image{found}) != nil})
	}
	c.ask(all.Query(images), said)
	return said, nil
}

// learn finds out which digests are behind names, from nodes and from the pod itself.
func (c *cluster) learn(pod *corev1.Pod) (*index.Names, error) {
	names, err := index.NewNames(namesToLearn)
	if err != nil {
		return nil, fmt.Errorf("remembering names of images: %w", err)
	}
	for i := range c.nodes {
		for _, image := range c.nodes[i].Status.Images {
			names.Learn(image.Names...)
		}
	}
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		names.Learn(status.Image, status.ImageID)
	}
	return names, nil
}

// ask fills in the nodes, the best first.
func (c *cluster) ask(query *index.Query, said *explanation) {
	if query == nil {
		return
	}
	var names []string
	for i := range c.nodes {
		names = append(names, c.nodes[i].Name)
	}
	for i, answer := range query.Ask(names) {
		said.Nodes = append(said.Nodes, explainNode{
			Node: answer.Node, Chosen: answer.Node == said.Node, State: c.state(&c.nodes[i]), Seconds: answer.Split.Total().Seconds(),
			Peers: answer.Split.Peers.Seconds(), Registry: answer.Split.Registry.Seconds(), Score: query.Score(answer.Split.Total()),
			Confidence: answer.Confidence, Images: answer.Images,
		})
	}
	slices.SortStableFunc(said.Nodes, func(a, b explainNode) int { return cmp.Compare(a.Seconds, b.Seconds) })
}

func (e *explanation) table() table[explainNode] {
	var above strings.Builder
	fmt.Fprintf(&above, "Pod:        %s\nScheduler:  %s\nMode:       %s\n", e.Pod, e.Scheduler, orDash(string(e.Mode)))
	if e.Node == "" {
		fmt.Fprintf(&above, "Node:       none yet\n")
	} else {
		fmt.Fprintf(&above, "Node:       %s\n", e.Node)
	}
	if e.Message != "" {
		fmt.Fprintf(&above, "Message:    %s\n", e.Message)
	}
	for _, image := range e.Images {
		note := ""
		if !image.Known {
			note = " (no node knows it, so it says nothing for any)"
		}
		fmt.Fprintf(&above, "Image:      %s%s\n", image.Name, note)
	}
	above.WriteString("\n")
	return table[explainNode]{
		header: "NODE READY-IN PEERS REGISTRY CACHED SCORE BELIEVED STATE", rows: e.Nodes, above: above.String(),
		line: func(n explainNode) []string {
			name, cached := n.Node, int64(0)
			if n.Chosen {
				name += " *"
			}
			for _, image := range n.Images {
				cached += image.Cached
			}
			return []string{
				name, secondsText(n.Seconds), secondsText(n.Peers), secondsText(n.Registry), units.Size(cached),
				strconv.FormatInt(n.Score, 10), fmt.Sprintf("%.0f%%", 100*n.Confidence), n.State,
			}
		},
	}
}
