package clusterview

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/brisk-project/brisk/api/v1alpha1"
)

// ImageKind is the kind of [ImageSummary].
const ImageKind = "ImageSummary"

// ImageSummary describes an image. Sizes are in bytes.
type ImageSummary struct {
	Document

	Image string `json:"image"`
	// Key is the beginning of the digest of its manifest.
	Key string `json:"key"`
	// Warm are the nodes on which a start has nothing to load.
	Warm  []string      `json:"warm"`
	Nodes []ImageOnNode `json:"nodes"`
}

// ImageOnNode is what a node has of an image. Estimated says that the start-up set is not
// known, so that what is missing is a guess.
type ImageOnNode struct {
	Node           string `json:"node"`
	StartupMissing int64  `json:"startupMissing"`
	Cached         int64  `json:"cached"`
	Estimated      bool   `json:"estimated,omitempty"`
}

// Images returns all images that nodes report, sorted by name.
func (c *View) Images() []ImageSummary {
	names := c.names()
	rows := make(map[v1alpha1.ImageKey]*ImageSummary)
	for i := range c.nodes {
		node := c.nodes[i].Name
		for _, image := range c.images[node] {
			row := rows[image.Key]
			if row == nil {
				row = &ImageSummary{
					Document: Document{APIVersion, ImageKind}, Image: cmp.Or(names[image.Key], keyName(image.Key)),
					Key: fmt.Sprintf("%010x", uint64(image.Key)), Warm: []string{},
				}
				rows[image.Key] = row
			}
			row.Nodes = append(row.Nodes, ImageOnNode{node, image.StartupMissing, image.Cached, image.Estimated})
			if image.StartupMissing == 0 {
				row.Warm = append(row.Warm, node)
			}
		}
	}
	sorted := make([]ImageSummary, 0, len(rows))
	for _, row := range rows {
		sorted = append(sorted, *row)
	}
	slices.SortFunc(sorted, func(a, b ImageSummary) int { return cmp.Or(cmp.Compare(a.Image, b.Image), cmp.Compare(a.Key, b.Key)) })
	return sorted
}
