// Package artifact brings traces to registries and back: [Push] makes the start-up artifact of
// an image, [Fetch] reads the traces that were found with its index.
package artifact
