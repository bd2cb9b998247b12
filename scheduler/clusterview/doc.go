// Package clusterview tells people what the scheduler works with: what the nodes of a
// cluster have reported, where images are warm, and how long a pod would wait on each node.
package clusterview

// APIVersion is that of the documents of this package. Fields are added to them, but none
// is renamed or removed.
const APIVersion = "cli.brisk.dev/v1alpha1"

// Document says what a document is.
type Document struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}
