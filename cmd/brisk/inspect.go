package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/units"
)

// inspection is the output of "brisk inspect". All sizes are in bytes: StoredSize
// of the blobs in the registry, which are compressed, StreamSize of what is in them.
type inspection struct {
	Image        string            `json:"image"`
	Digest       string            `json:"digest"`
	Platform     string            `json:"platform"`
	Artifact     string            `json:"artifact"`
	StoredSize   int64             `json:"storedSize"`
	StreamSize   int64             `json:"streamSize"`
	IndexSize    int64             `json:"indexSize"`
	IndexPercent float64           `json:"indexPercentOfStored"`
	Layers       []layerInspection `json:"layers"`
}

type layerInspection struct {
	Digest      string `json:"digest"`
	DiffID      string `json:"diffID"`
	Compression string `json:"compression"`
	StoredSize  int64  `json:"storedSize"`
	StreamSize  int64  `json:"streamSize"`
	IndexSize   int64  `json:"indexSize"`
	Entries     int    `json:"entries"`
	Frames      int    `json:"frames"`
	FrameSize   int64  `json:"meanFrameSize"`
	// Seekable is false for a layer that can only be read from its start.
	Seekable bool `json:"seekable"`
}

func newInspectCommand(shared *globals) *cobra.Command {
	var output, platform string
	cmd := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show the index of an image: sizes, frames, layers",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return inspect(cmd.Context(), shared, cmd.OutOrStdout(), args[0], platform, output)
		},
	}
	cli.AddFormat(cmd, &output)
	cmd.Flags().StringVar(&platform, "platform", "", "platform of a multi-platform image (default: this machine's)")
	return cmd
}

func inspect(ctx context.Context, shared *globals, out io.Writer, image, platform, output string) error {
	if err := cli.CheckFormat(output); err != nil {
		return err
	}
	chosen, err := parsePlatform(platform)
	if err != nil {
		return err
	}
	client, err := shared.registryClient()
	if err != nil {
		return err
	}
	defer client.Close()
	found, err := openIndexed(ctx, client, image, chosen)
	if err != nil {
		return err
	}
	report := describe(found)
	return cli.Print(out, output, report, report.writeTable)
}

func describe(found *indexed) *inspection {
	report := &inspection{
		Image:    found.image.Name.String(),
		Digest:   found.image.Digest.String(),
		Platform: registry.FormatPlatform(found.image.Platform()),
		Artifact: found.artifact.Digest.String(),
		Layers:   []layerInspection{},
	}
	for i, layer := range found.layers {
		size := int64(0)
		if entry, ok := found.artifact.Index(found.image.Layers[i].Digest); ok {
			size = entry.Size
		}
		report.Layers = append(report.Layers, layerInspection{
			Digest:      layer.BlobDigest().String(),
			DiffID:      layer.DiffID().String(),
			Compression: layer.Compression().String(),
			StoredSize:  layer.BlobSize(),
			StreamSize:  layer.StreamSize(),
			IndexSize:   size,
			Entries:     layer.EntryCount(),
			Frames:      layer.FrameCount(),
			FrameSize:   meanFrame(layer),
			Seekable:    layer.Seekable(),
		})
		report.StoredSize += layer.BlobSize()
		report.StreamSize += layer.StreamSize()
		report.IndexSize += size
	}
	report.IndexPercent = percent(report.IndexSize, report.StoredSize)
	return report
}

func meanFrame(layer *index.Layer) int64 {
	return layer.StreamSize() / int64(max(1, layer.FrameCount()))
}

func percent(part, whole int64) float64 { return 100 * float64(part) / float64(max(1, whole)) }

func (r *inspection) writeTable(out io.Writer) error {
	about := cli.NewTable(out)
	for _, row := range [][2]string{{"image", r.Image}, {"digest", r.Digest}, {"platform", r.Platform}, {"index", r.Artifact}} {
		about.Row(row[0], row[1])
	}
	about.Row("size", fmt.Sprintf("%s compressed, %s uncompressed, index %s (%.2f %% of compressed)\n",
		units.Size(r.StoredSize), units.Size(r.StreamSize), units.Size(r.IndexSize), r.IndexPercent))
	if err := about.Flush(); err != nil {
		return err
	}
	layers := cli.NewTable(out)
	layers.Row("LAYER", "COMPRESSION", "COMPRESSED", "UNCOMPRESSED", "INDEX", "OF COMPRESSED", "ENTRIES", "FRAMES", "MEAN FRAME", "READ")
	for _, l := range r.Layers {
		how := "any part"
		if !l.Seekable {
			how = "from its start"
		}
		layers.Row(shortDigest(l.Digest), l.Compression, units.Size(l.StoredSize), units.Size(l.StreamSize), units.Size(l.IndexSize),
			fmt.Sprintf("%.2f %%", percent(l.IndexSize, l.StoredSize)), strconv.Itoa(l.Entries), strconv.Itoa(l.Frames), units.Size(l.FrameSize), how)
	}
	return layers.Flush()
}

// shortDigest returns as much of a digest as people compare.
func shortDigest(digest string) string { return fmt.Sprintf("%.19s", digest) }
