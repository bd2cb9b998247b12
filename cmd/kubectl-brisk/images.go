package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/internal/units"
)

// imageRow is what is told of an image. Sizes are in bytes.
type imageRow struct {
	Image string `json:"image"`
	// Key is the beginning of the digest of its manifest.
	Key string `json:"key"`
	// Warm are the nodes on which a start has nothing to load.
	Warm  []string    `json:"warm"`
	Nodes []imageNode `json:"nodes"`
}

// imageNode is what a node has of an image. Estimated says that the start-up set is not
// known, so that what is missing is a guess.
type imageNode struct {
	Node           string `json:"node"`
	StartupMissing int64  `json:"startupMissing"`
	Cached         int64  `json:"cached"`
	Estimated      bool   `json:"estimated,omitempty"`
}

func (c *cluster) imageRows() []imageRow {
	names := c.names()
	rows := make(map[v1alpha1.ImageKey]*imageRow)
	for i := range c.nodes {
		node := c.nodes[i].Name
		for _, image := range c.images[node] {
			row := rows[image.Key]
			if row == nil {
				row = &imageRow{Image: cmp.Or(names[image.Key], keyName(image.Key)), Key: fmt.Sprintf("%010x", uint64(image.Key)), Warm: []string{}}
				rows[image.Key] = row
			}
			row.Nodes = append(row.Nodes, imageNode{node, image.StartupMissing, image.Cached, image.Estimated})
			if image.StartupMissing == 0 {
				row.Warm = append(row.Warm, node)
			}
		}
	}
	sorted := make([]imageRow, 0, len(rows))
	for _, row := range rows {
		sorted = append(sorted, *row)
	}
	slices.SortFunc(sorted, func(a, b imageRow) int { return cmp.Or(cmp.Compare(a.Image, b.Image), cmp.Compare(a.Key, b.Key)) })
	return sorted
}

func (o *options) newImagesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "images [TEXT]",
		Short: "List the images: where they are warm, and how much of them is there",
		Long: `List the images that nodes have, or those whose name contains TEXT: where they are warm,
and how much of them is there. With TEXT there is a line for each node.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.load(cmd.Context())
			if err != nil {
				return err
			}
			rows := c.imageRows()
			if len(args) == 0 || o.format == formatJSON {
				if len(args) > 0 {
					rows = slices.DeleteFunc(rows, func(r imageRow) bool { return !strings.Contains(r.Image, args[0]) })
				}
				return imageTable(rows).print(cmd.OutOrStdout(), o.format)
			}
			return placeTable(rows, args[0]).print(cmd.OutOrStdout(), o.format)
		},
	}
}

func imageTable(rows []imageRow) table[imageRow] {
	return table[imageRow]{
		header: "IMAGE NODES WARM LEAST-MISSING MOST-CACHED", rows: rows,
		line: func(r imageRow) []string {
			least, most := r.Nodes[0].StartupMissing, int64(0)
			for _, n := range r.Nodes {
				least, most = min(least, n.StartupMissing), max(most, n.Cached)
			}
			return []string{r.Image, strconv.Itoa(len(r.Nodes)), fewNames(r.Warm), units.Size(least), units.Size(most)}
		},
	}
}

// placeTable has a line for each image and node.
func placeTable(rows []imageRow, text string) table[[2]any] {
	t := table[[2]any]{header: "IMAGE NODE MISSING CACHED START-UP-SET"}
	for _, r := range rows {
		if strings.Contains(r.Image, text) {
			for _, n := range r.Nodes {
				t.rows = append(t.rows, [2]any{r.Image, n})
			}
		}
	}
	t.line = func(row [2]any) []string {
		n, ok := row[1].(imageNode)
		if !ok {
			return nil
		}
		known := "known"
		if n.Estimated {
			known = "guessed"
		}
		return []string{fmt.Sprint(row[0]), n.Node, units.Size(n.StartupMissing), units.Size(n.Cached), known}
	}
	return t
}

// fewNames lists names, not too many of them.
func fewNames(names []string) string {
	const few = 3
	switch {
	case len(names) == 0:
		return "-"
	case len(names) <= few:
		return strings.Join(names, ",")
	default:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ","), len(names)-few)
	}
}
