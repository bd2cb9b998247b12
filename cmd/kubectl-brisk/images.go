package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/units"
	"github.com/brisk-project/brisk/scheduler/clusterview"
)

type (
	imageRow  = clusterview.ImageSummary
	imageNode = clusterview.ImageOnNode
)

func (o *options) newImagesCommand() *cobra.Command {
	return o.newListCommand("images [TEXT]", "List images: on which nodes they are warm, and how much is cached",
		`List the images of all nodes, or those whose name contains TEXT: on which nodes they are
warm, and how much is cached. With TEXT the table has one line per node.`,
		cobra.MaximumNArgs(1), func(cmd *cobra.Command, args []string) error {
			text := strings.Join(args, "")
			if len(args) > 0 && (o.format == cli.Text || o.format == formatWide) {
				return placeListing(text).run(cmd.Context(), o, cmd.OutOrStdout())
			}
			return imageListing(text).run(cmd.Context(), o, cmd.OutOrStdout())
		})
}

// imageListing lists the images whose name contains a text.
func imageListing(text string) listing[imageRow] {
	return listing[imageRow]{
		kind: clusterview.ImageKind + "List",
		rows: func(c *clusterview.View) []imageRow {
			return slices.DeleteFunc(c.Images(), func(r imageRow) bool { return !strings.Contains(r.Image, text) })
		},
		columns: []column[imageRow]{
			{header: "IMAGE", text: func(r imageRow) string { return r.Image }},
			{header: "NODES", text: func(r imageRow) string { return strconv.Itoa(len(r.Nodes)) }},
			{header: "WARM", text: func(r imageRow) string { return fewNames(r.Warm) }},
			{header: "LEAST-MISSING", text: func(r imageRow) string { return units.Size(leastMissing(r)) }},
			{header: "MOST-CACHED", text: func(r imageRow) string { return units.Size(mostCached(r)) }},
			{header: "KEY", wide: true, text: func(r imageRow) string { return r.Key }},
			{header: "WARM-NODES", wide: true, text: func(r imageRow) string { return orDash(strings.Join(r.Warm, ",")) }},
		},
		name:   func(r imageRow) string { return r.Image },
		id:     func(r imageRow) string { return r.Key },
		steady: func(r imageRow) imageRow { return r },
		gone: func(r imageRow) imageRow {
			return imageRow{Document: r.Document, Image: r.Image, Key: r.Key, Warm: []string{}, Nodes: []imageNode{}}
		},
	}
}

func leastMissing(r imageRow) int64 {
	if len(r.Nodes) == 0 {
		return 0
	}
	return slices.MinFunc(r.Nodes, func(a, b imageNode) int { return cmp.Compare(a.StartupMissing, b.StartupMissing) }).StartupMissing
}

func mostCached(r imageRow) int64 {
	var most int64
	for _, n := range r.Nodes {
		most = max(most, n.Cached)
	}
	return most
}

// placeRow is an image on a node.
type placeRow struct {
	imageNode

	image, key string
	gone       bool
}

// placeListing has a line for each image whose name contains text, and each of its nodes.
func placeListing(text string) listing[placeRow] {
	return listing[placeRow]{
		rows: func(c *clusterview.View) []placeRow {
			var rows []placeRow
			for _, r := range imageListing(text).rows(c) {
				for _, n := range r.Nodes {
					rows = append(rows, placeRow{imageNode: n, image: r.Image, key: r.Key})
				}
			}
			return rows
		},
		columns: []column[placeRow]{
			{header: "IMAGE", text: func(r placeRow) string { return r.image }},
			{header: "NODE", text: func(r placeRow) string { return r.Node }},
			{header: "MISSING", text: func(r placeRow) string { return units.Size(r.StartupMissing) }},
			{header: "CACHED", text: func(r placeRow) string { return units.Size(r.Cached) }},
			{header: "START-UP-SET", text: placeRow.startupSet},
			{header: "KEY", wide: true, text: func(r placeRow) string { return r.key }},
		},
		id:     func(r placeRow) string { return r.key + " " + r.Node },
		steady: func(r placeRow) placeRow { return r },
		gone: func(r placeRow) placeRow {
			return placeRow{imageNode: imageNode{Node: r.Node}, image: r.image, key: r.key, gone: true}
		},
	}
}

// startupSet says how far it is known what a start reads.
func (r placeRow) startupSet() string {
	switch {
	case r.gone:
		return "removed"
	case r.Estimated:
		return "guessed"
	default:
		return "known"
	}
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
