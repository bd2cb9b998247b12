package index

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// PodImages returns the names of the images that a pod needs to start, each once: those of
// its containers, of init containers and sidecars, and of its image volumes.
func PodImages(pod *corev1.Pod) []string {
	var names []string
	add := func(name string) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for i := range pod.Spec.InitContainers {
		add(pod.Spec.InitContainers[i].Image)
	}
	for i := range pod.Spec.Containers {
		add(pod.Spec.Containers[i].Image)
	}
	for i := range pod.Spec.Volumes {
		if image := pod.Spec.Volumes[i].Image; image != nil {
			add(image.Reference)
		}
	}
	return names
}
