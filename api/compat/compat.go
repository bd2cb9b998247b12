// Package compat holds the labels and annotations that pods, namespaces and nodes are
// marked with: ours, and those of other accelerators that manifests may have already; and
// how accelerated forms of images are tagged.
package compat

import "slices"

const (
	// Acceleration is the label or annotation of a pod, and the label of a namespace,
	// whose value is a [Mode]. As a label or annotation of a node with the value
	// [Disabled] it keeps the node from being one that accelerates.
	Acceleration = "brisk.dev/acceleration"
	// Accelerated is the label, with the value "true", of nodes whose agent is healthy.
	Accelerated = "brisk.dev/accelerated"

	// AliyunMode is the label of a pod or namespace that other accelerators read. Its
	// only value is [AliyunOnDemand].
	AliyunMode = "k8s.aliyun.com/image-accelerate-mode"
	// AliyunOnDemand is the value of AliyunMode that asks for acceleration.
	AliyunOnDemand = "on-demand"
	// AliyunEnabled is a label of nodes that accelerate.
	AliyunEnabled = "alibabacloud.com/image-accelerate-enabled"
	// UCloudAccelerated is a label of nodes that accelerate.
	UCloudAccelerated = "node.uk8s.ucloud.cn/uimgacc"
)

// AcceleratedSuffixes are what tags of accelerated forms of images end in, ours first:
// app:v1_accelerated is a form of app:v1.
func AcceleratedSuffixes() []string { return []string{"_accelerated", "_containerd_accelerated"} }

// Mode is what a pod wants.
type Mode string

// The modes.
const (
	// Unset says that nobody said anything.
	Unset Mode = ""
	// Required keeps the pod from nodes that do not accelerate.
	Required Mode = "required"
	// Preferred takes a node that accelerates if that is faster.
	Preferred Mode = "preferred"
	// Disabled treats the pod as if there were no acceleration.
	Disabled Mode = "disabled"
)

const yes = "true"

// ModeOf returns what a pod wants: what its label says, or else its annotation, or else
// the label of another accelerator, or else the labels of its namespace, ours first.
// Values of ours that are no mode say nothing.
//
// On demand means [Preferred]: any node can run the pod. A pod that has that label with
// another value has opted out of what its namespace says.
func ModeOf(labels, annotations, namespace map[string]string) Mode {
	for _, said := range []Mode{mode(labels), mode(annotations), aliyun(labels), mode(namespace), aliyun(namespace)} {
		if said != Unset {
			return said
		}
	}
	return Unset
}

func mode(marks map[string]string) Mode {
	said := Mode(marks[Acceleration])
	if slices.Contains([]Mode{Required, Preferred, Disabled}, said) {
		return said
	}
	return Unset
}

func aliyun(labels map[string]string) Mode {
	switch value, ok := labels[AliyunMode]; {
	case !ok:
		return Unset
	case value == AliyunOnDemand:
		return Preferred
	default:
		return Disabled
	}
}

// NodeLabels returns the labels of a node that accelerates, or of one that does not: nil
// is for a label that is to be removed. In JSON it is a merge patch of labels.
func NodeLabels(healthy bool) map[string]*string {
	labels := map[string]*string{Accelerated: nil, AliyunEnabled: nil, UCloudAccelerated: nil}
	if healthy {
		for name := range labels {
			value := yes
			labels[name] = &value
		}
	}
	return labels
}

// HasNodeLabels says whether a node has just the labels of [NodeLabels].
func HasNodeLabels(labels map[string]string, healthy bool) bool {
	for name, want := range NodeLabels(healthy) {
		value, has := labels[name]
		if has != (want != nil) || has && value != *want {
			return false
		}
	}
	return true
}

// IsAccelerated says whether a node with these labels accelerates.
func IsAccelerated(labels map[string]string) bool { return labels[Accelerated] == yes }

// NodeDisabled says whether a node with these labels and annotations is not to
// accelerate, however healthy its agent is.
func NodeDisabled(labels, annotations map[string]string) bool {
	return mode(labels) == Disabled || mode(annotations) == Disabled
}
