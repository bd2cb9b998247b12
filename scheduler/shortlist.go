package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	schedulingcorev1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/brisk-project/brisk/api/compat"
)

// listed is how many nodes a shortlist has. Up to it, the scheduler looks at every node that
// it is given; of more it would look at some part only, and in no order.
const listed = 99

// shortlist returns the nodes that are to be in the cycle, or nil if that is all of them:
// those on which the pod is ready soonest, and a sample of the others, another one in every cycle.
//
// Of 5,000 nodes the scheduler looks at 500, so it misses five warm ones more often than
// not. A list that is too short, because something here does not know of keeps the pod from all its nodes, costs
// the pod a second cycle, see [BlockLocality.PostFilter].
func (p *BlockLocality) shortlist(pod *corev1.Pod, c *cycle, nodes []fwk.NodeInfo) []string {
	if p.args.ShortlistSize == 0 || c.query == nil || len(nodes) <= listed || p.looked.Contains(pod.UID) {
		return nil
	}
	names := p.warm(pod, c)
	if len(names) == 0 {
		return nil
	}
	p.rotation %= len(nodes)
	for range listed - len(names) {
		names = append(names, nodes[p.rotation].Node().Name)
		p.rotation = (p.rotation + 1) % len(nodes)
	}
	return names
}

// warm returns the best nodes for a pod, as far as they seem to have room for it.
func (p *BlockLocality) warm(pod *corev1.Pod, c *cycle) []string {
	best := c.query.WarmestNodes()
	if len(best) == 0 {
		return nil
	}
	snapshot := p.handle.SnapshotSharedLister().NodeInfos()
	check := fit{
		pod: pod, requests: resource.PodRequests(pod, resource.PodResourcesOptions{}),
		affinity: nodeaffinity.GetRequiredNodeAffinity(pod),
	}
	names := make([]string, 0, listed)
	for _, name := range best {
		info, err := snapshot.Get(name)
		if err != nil || !check.fits(info) || c.mode == compat.Required && p.reason(c, info.Node()) != "" {
			continue
		}
		if names = append(names, name); len(names) == int(p.args.ShortlistSize) {
			break
		}
	}
	return names
}

// fit is a quick look at whether a pod fits on a node: enough to not fill a shortlist with nodes that are full.
// The scheduler checks in full what is on the list.
type fit struct {
	pod      *corev1.Pod
	requests corev1.ResourceList
	affinity nodeaffinity.RequiredNodeAffinity
}

func (f *fit) fits(info fwk.NodeInfo) bool {
	node := info.Node()
	has, used := info.GetAllocatable(), info.GetRequested()
	if len(info.GetPods()) >= has.GetAllowedPodNumber() ||
		used.GetMilliCPU()+f.requests.Cpu().MilliValue() > has.GetMilliCPU() ||
		used.GetMemory()+f.requests.Memory().Value() > has.GetMemory() {
		return false
	}
	for name, amount := range f.requests {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourcePods:
		default:
			if used.GetScalarResources()[name]+amount.Value() > has.GetScalarResources()[name] {
				return false
			}
		}
	}
	if _, tainted := schedulingcorev1.FindMatchingUntoleratedTaint(node.Spec.Taints, f.pod.Spec.Tolerations, func(taint *corev1.Taint) bool {
		return taint.Effect != corev1.TaintEffectPreferNoSchedule
	}); tainted || node.Spec.Unschedulable {
		return false
	}
	matches, err := f.affinity.Match(node)
	return err == nil && matches
}
