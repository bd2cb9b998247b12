// Package clusterview shows the data that the scheduler uses: the reports of the nodes of a
// cluster, where images are warm, and how long a pod would wait on each node.
package clusterview

// APIVersion is the version of the documents of this package. Fields may be added, but none is
// renamed or removed.
const APIVersion = "cli.brisk.dev/v1alpha1"

// Document is the header of a document: its API version and kind.
type Document struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}
