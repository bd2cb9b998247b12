package scheduler

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"
)

// scores are those of the nodes of one cycle, by name.
type scores map[string]int64

// Clone implements [fwk.StateData].
func (s scores) Clone() fwk.StateData { return s }

// PreScore implements [framework.PreScorePlugin]. It scores all nodes at once, under one lock.
func (p *BlockLocality) PreScore(_ context.Context, state fwk.CycleState, _ *corev1.Pod, nodes []fwk.NodeInfo) *fwk.Status {
	c := read(state)
	if c == nil || c.query == nil {
		return fwk.NewStatus(fwk.Skip)
	}
	names := make([]string, len(nodes))
	for i, node := range nodes {
		names[i] = node.Node().Name
	}
	found := make(scores, len(nodes))
	for i, total := range c.query.Times(names) {
		found[names[i]] = c.query.Score(total)
	}
	state.Write(scoresKey, found)
	return nil
}

// Score implements [framework.ScorePlugin]. Scores are absolute, so there is nothing to
// normalize.
func (p *BlockLocality) Score(_ context.Context, state fwk.CycleState, _ *corev1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	data, err := state.Read(scoresKey)
	if err != nil {
		return 0, nil
	}
	found, ok := data.(scores)
	if !ok {
		return 0, nil
	}
	return found[node.Node().Name], nil
}

// ScoreExtensions implements [framework.ScorePlugin].
func (p *BlockLocality) ScoreExtensions() framework.ScoreExtensions { return nil }

// Reserve implements [framework.ReservePlugin]. It never refuses.
func (p *BlockLocality) Reserve(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, node string) *fwk.Status {
	c := read(state)
	if c == nil {
		return nil
	}
	if c.query == nil {
		p.metrics.unknown()
		return nil
	}
	answer := c.query.Ask([]string{node})[0]
	p.index.Reserve(pod.UID, answer)
	p.metrics.decided(answer)
	klog.FromContext(ctx).V(4).Info("Estimated time to ready", "pod", klog.KObj(pod), "node", node,
		"total", answer.Split.Total(), "queued", answer.Split.Queued, "peers", answer.Split.Peers, "registry", answer.Split.Registry)
	return nil
}

// Unreserve implements [framework.ReservePlugin].
func (p *BlockLocality) Unreserve(_ context.Context, _ fwk.CycleState, pod *corev1.Pod, _ string) {
	p.index.Unreserve(pod.UID)
}
