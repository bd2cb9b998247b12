package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/image/index"
)

// inspection is what "brisk inspect" tells of an image. All sizes are in bytes.
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
	cmd.Flags().StringVarP(&output, "output", "o", "table", "format: table or json")
	cmd.Flags().StringVar(&platform, "platform", "", "platform of a multi-platform image (default: this machine's)")
	return cmd
}

func inspect(ctx context.Context, shared *globals, out io.Writer, image, platform, output string) error {
	if output != "table" && output != "json" {
		return fmt.Errorf("--output %q is neither table nor json", output)
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
	if output == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(report)
	}
	return report.writeTable(out)
}

func describe(found *indexed) *inspection {
	report := &inspection{
		Image:    found.image.Name.String(),
		Digest:   found.image.Digest.String(),
		Platform: found.image.Platform().String(),
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
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range [][2]string{{"image", r.Image}, {"digest", r.Digest}, {"platform", r.Platform}, {"index", r.Artifact}} {
		fmt.Fprintf(table, "%s\t%s\n", row[0], row[1]) //nolint:errcheck // reported by Flush
	}
	//nolint:errcheck // reported by Flush
	fmt.Fprintf(table, "size\t%s stored, %s uncompressed, index %s (%.2f %% of stored)\n\n",
		megabytes(r.StoredSize), megabytes(r.StreamSize), megabytes(r.IndexSize), r.IndexPercent)
	if err := table.Flush(); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	table = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "LAYER\tCOMPRESSION\tSTORED\tUNCOMPRESSED\tINDEX\tOF STORED\tENTRIES\tFRAMES\tMEAN FRAME\tREAD") //nolint:errcheck // reported by Flush
	for _, l := range r.Layers {
		how := "any part"
		if !l.Seekable {
			how = "from its start"
		}
		fmt.Fprintf(table, "%.19s\t%s\t%s\t%s\t%s\t%.2f %%\t%d\t%d\t%s\t%s\n", l.Digest, l.Compression, megabytes(l.StoredSize), //nolint:errcheck // reported by Flush
			megabytes(l.StreamSize), megabytes(l.IndexSize), percent(l.IndexSize, l.StoredSize), l.Entries, l.Frames, megabytes(l.FrameSize), how)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	return nil
}

func megabytes(n int64) string {
	if n < 100_000 {
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}
