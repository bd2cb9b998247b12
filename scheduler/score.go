package scheduler

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"
)

// PreScore implements [framework.PreScorePlugin].
func (p *BlockLocality) PreScore(_ context.Context, state fwk.CycleState, _ *corev1.Pod, _ []fwk.NodeInfo) *fwk.Status {
	if c := read(state); c == nil || c.query == nil {
		return fwk.NewStatus(fwk.Skip)
	}
	return nil
}

// Score implements [framework.ScorePlugin]. Scores are absolute, so there is nothing to
// normalize. The scheduler calls it for several nodes at once, which is why nothing is
// worked out for all of them before.
func (p *BlockLocality) Score(_ context.Context, state fwk.CycleState, _ *corev1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	c := read(state)
	if c == nil || c.query == nil {
		return 0, nil
	}
	return c.query.Score(c.query.Time(node.Node().Name)), nil
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
	answer := c.query.Estimate([]string{node})[0]
	p.index.Reserve(pod.UID, answer)
	p.metrics.decided(answer)
	klog.FromContext(ctx).V(4).Info("Estimated time to ready", "pod", klog.KObj(pod), "node", node,
		"total", answer.ReadyTime.Total(), "queued", answer.ReadyTime.Queued, "peers", answer.ReadyTime.Peers, "registry", answer.ReadyTime.Registry)
	return nil
}

// Unreserve implements [framework.ReservePlugin].
func (p *BlockLocality) Unreserve(_ context.Context, _ fwk.CycleState, pod *corev1.Pod, _ string) {
	p.index.Unreserve(pod.UID)
}
