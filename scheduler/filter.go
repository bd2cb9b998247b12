package scheduler

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"github.com/brisk-project/brisk/api/compat"
	"github.com/brisk-project/brisk/scheduler/index"
)

// What a person reads who asks why a pod is pending. The scheduler counts nodes by these
// texts, so they do not name any.
const (
	reasonPlain = "node(s) that do not mount images lazily (the pod requires " + compat.Acceleration +
		"; install brisk-node there, or set \"preferred\")"
	reasonUnhealthy = "node(s) whose brisk-node is not healthy (see kubectl brisk nodes)"
	reasonNoRoom    = "node(s) whose block cache has no room for what the pod's images need to start (make it larger)"
	reasonShort     = "looked at warm nodes and some others only; all nodes are looked at next"
)

// cycle is what the plugin remembers from PreFilter to Reserve. Nothing changes it once
// PreFilter has returned.
type cycle struct {
	mode    compat.Mode
	query   *index.Query // nil if nothing is known of the images
	shorted bool         // not all nodes were in the cycle
}

// Clone implements [fwk.StateData].
func (c *cycle) Clone() fwk.StateData { return c }

const cycleKey fwk.StateKey = Name

func read(state fwk.CycleState) *cycle {
	data, err := state.Read(cycleKey)
	if err != nil {
		return nil
	}
	c, ok := data.(*cycle)
	if !ok {
		return nil
	}
	return c
}

// PreFilter implements [framework.PreFilterPlugin].
func (p *BlockLocality) PreFilter(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo) (*framework.PreFilterResult, *fwk.Status) {
	mode := p.wanted(ctx, pod)
	if mode == compat.Disabled {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	c := &cycle{mode: mode, query: p.query(pod)}
	state.Write(cycleKey, c)
	var result *framework.PreFilterResult
	if names := p.shortlist(pod, c, nodes); names != nil {
		c.shorted = true
		result = &framework.PreFilterResult{NodeNames: sets.New(names...)}
	}
	if mode != compat.Required && result == nil {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	return result, nil
}

// PreFilterExtensions implements [framework.PreFilterPlugin]. Other pods on a node change nothing.
func (p *BlockLocality) PreFilterExtensions() framework.PreFilterExtensions { return nil }

// Filter implements [framework.FilterPlugin].
func (p *BlockLocality) Filter(_ context.Context, state fwk.CycleState, _ *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	c := read(state)
	if c == nil || c.mode != compat.Required {
		return nil
	}
	if reason := p.reason(c, node.Node()); reason != "" {
		return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, reason)
	}
	return nil
}

// reason says why a node cannot take a pod that requires acceleration, or nothing.
func (p *BlockLocality) reason(c *cycle, node *corev1.Node) string {
	if !compat.IsAccelerated(node.Labels) {
		return reasonPlain
	}
	health := p.index.Health(node.Name)
	switch {
	case !health.Known:
		return "" // the label says that the agent was there a moment ago
	case !health.Healthy:
		return reasonUnhealthy
	case c.query != nil && health.CapacityBytes > 0 && c.query.Missing(node.Name) > health.FreeBytes:
		return reasonNoRoom
	default:
		return ""
	}
}

// PostFilter implements [framework.PostFilterPlugin]. If not all nodes were in the cycle, it
// keeps other plugins from drawing conclusions (such as preempting pods) and has the
// scheduler try again with all of them. It has to come first, which the shipped
// configuration sees to.
func (p *BlockLocality) PostFilter(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, _ framework.NodeToStatusReader) (*framework.PostFilterResult, *fwk.Status) {
	c := read(state)
	switch {
	case c == nil:
	case c.shorted:
		p.looked.Add(pod.UID, struct{}{})
		p.metrics.short()
		p.handle.Activate(klog.FromContext(ctx), map[string]*corev1.Pod{pod.Namespace + "/" + pod.Name: pod})
		return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, reasonShort)
	case c.mode == compat.Required:
		p.wait(pod)
	}
	return nil, fwk.NewStatus(fwk.Unschedulable)
}

// EventsToRegister implements [framework.EnqueueExtensions]. Reports of agents are not among
// the events: the scheduler would not start without the kind of object being there. [shared.wake]
// is what stands in for them.
func (p *BlockLocality) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		{Event: fwk.ClusterEvent{Resource: fwk.Node, ActionType: fwk.Add | fwk.UpdateNodeLabel}, QueueingHintFn: afterNode},
		{Event: fwk.ClusterEvent{Resource: fwk.Pod, ActionType: fwk.UpdatePodLabel}, QueueingHintFn: afterPod},
	}, nil
}

// afterNode queues a pod when a node becomes one that accelerates.
func afterNode(_ klog.Logger, _ *corev1.Pod, from, to any) (fwk.QueueingHint, error) {
	after, ok := to.(*corev1.Node)
	if !ok || !compat.IsAccelerated(after.Labels) {
		return fwk.QueueSkip, nil
	}
	if before, ok := from.(*corev1.Node); ok && before != nil && compat.IsAccelerated(before.Labels) {
		return fwk.QueueSkip, nil
	}
	return fwk.Queue, nil
}

// afterPod queues a pod when its own labels say that it wants something else.
func afterPod(_ klog.Logger, pod *corev1.Pod, from, to any) (fwk.QueueingHint, error) {
	before, ok := from.(*corev1.Pod)
	after, okAfter := to.(*corev1.Pod)
	if !ok || !okAfter || after == nil || before == nil || after.UID != pod.UID {
		return fwk.QueueSkip, nil
	}
	if compat.ModeOf(before.Labels, before.Annotations, nil) == compat.ModeOf(after.Labels, after.Annotations, nil) {
		return fwk.QueueSkip, nil
	}
	return fwk.Queue, nil
}
