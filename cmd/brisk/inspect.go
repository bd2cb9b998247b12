package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/upkeep"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/units"
)

// inspection is the output of "brisk inspect". All sizes are in bytes: StoredSize
// of the blobs in the registry, which are compressed, StreamSize of what is in them.
type inspection struct {
	Image    string `json:"image"`
	Digest   string `json:"digest"`
	Platform string `json:"platform"`
	// Mode is "full" for an image in full mode, Source the manifest that it was made from.
	Mode      string            `json:"mode"`
	Source    string            `json:"source,omitempty"`
	Artifact  string            `json:"artifact"`
	Predicted []traceInspection `json:"predictedTraces"`
	Startup   *startupInspect   `json:"startup,omitempty"`
	// Signatures is nil if the registry does not say in time which signatures it has.
	Signatures   *signatureCounts  `json:"signatures,omitempty"`
	StoredSize   int64             `json:"storedSize"`
	StreamSize   int64             `json:"streamSize"`
	IndexSize    int64             `json:"indexSize"`
	IndexPercent float64           `json:"indexPercentOfStored"`
	Layers       []layerInspection `json:"layers"`
}

// startupInspect is a start-up artifact. Bundle and PrefetchList are sizes, 0 for none.
type startupInspect struct {
	Artifact     string            `json:"artifact"`
	Created      time.Time         `json:"created"`
	Traces       []traceInspection `json:"traces"`
	Bundle       int64             `json:"bundleSize"`
	PrefetchList int64             `json:"prefetchListSize"`
}

// traceInspection is a trace. Kind is "list" for one of a prefetch list, "recorded" or "predicted".
type traceInspection struct {
	Digest  string `json:"digest"`
	Size    int64  `json:"size"`
	Kind    string `json:"kind"`
	Command string `json:"command,omitempty"`
}

// signatureCounts are the signatures that exist, whether they are valid or not. Startup is 0 without a start-up artifact.
type signatureCounts struct {
	Image   int `json:"image"`
	Index   int `json:"index"`
	Startup int `json:"startup"`
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
		Short: "Show the index of an image: sizes, layers, traces, signatures",
		Long: "Show what an image has: its index, the mode of its conversion, layers and frames, traces,\n" +
			"bundle and prefetch list, and signatures. Signatures are counted, not verified.\n\n" + imagesHelp,
		Args: cobra.ExactArgs(1),
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
	client, err := shared.imageClient(0)
	if err != nil {
		return err
	}
	report, err := client.inspect(ctx, image, chosen)
	if err = client.end(ctx, err); err != nil {
		return err
	}
	return cli.Print(out, output, report, report.writeTable)
}

func (c *imageClient) inspect(ctx context.Context, image string, platform v1.Platform) (*inspection, error) {
	ref, err := c.parse(image, false)
	if err != nil {
		return nil, err
	}
	found, err := openReference(ctx, c.Client, ref, platform)
	if err != nil {
		return nil, err
	}
	report := describe(found)
	report.Image = c.files.Text(report.Image)
	if report.Signatures, err = c.countSignatures(ctx, ref.Context(), found); errors.Is(err, block.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		err = ctx.Err()
	}
	return report, err
}

// signaturesTimeout bounds how long inspect waits for the signatures of an image: a registry may never say what
// refers to a manifest.
const signaturesTimeout = 3 * time.Second

func (c *imageClient) countSignatures(ctx context.Context, repo name.Repository, found *indexed) (*signatureCounts, error) {
	ctx, cancel := context.WithTimeout(ctx, signaturesTimeout)
	defer cancel()
	ofImage, err := upkeep.Signatures(ctx, c.Client, repo, found.image.Digest)
	if err != nil {
		return nil, err
	}
	ofIndex, err := upkeep.Signatures(ctx, c.Client, repo, found.artifact.Digest)
	if err != nil {
		return nil, err
	}
	counts := &signatureCounts{Image: ofImage, Index: ofIndex}
	if s := found.artifact.Startup; s != nil {
		counts.Startup, err = upkeep.Signatures(ctx, c.Client, repo, s.Digest)
	}
	if err != nil {
		return nil, err
	}
	return counts, nil
}

func describe(found *indexed) *inspection {
	report := &inspection{
		Image:    found.image.Name.String(),
		Digest:   found.image.Digest.String(),
		Platform: registry.FormatPlatform(found.image.Platform()),
		Mode:     string(convert.ModeIndex),
		Artifact: found.artifact.Digest.String(),
		Layers:   []layerInspection{}, Predicted: describeTraces(found.artifact.Traces),
	}
	if source, full := found.image.Source(); full {
		report.Mode, report.Source = string(convert.ModeFull), source.String()
	}
	if s := found.artifact.Startup; s != nil {
		report.Startup = &startupInspect{Artifact: s.Digest.String(), Created: s.Created, Traces: describeTraces(s.Traces)}
		if s.Bundle != nil {
			report.Startup.Bundle = s.Bundle.Size
		}
		if s.List != nil {
			report.Startup.PrefetchList = s.List.Size
		}
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

func describeTraces(blobs []registry.TraceBlob) []traceInspection {
	traces := []traceInspection{}
	for _, t := range blobs {
		kind := "recorded"
		switch {
		case t.List:
			kind = "list"
		case t.Predicted:
			kind = "predicted"
		}
		traces = append(traces, traceInspection{Digest: t.Digest.String(), Size: t.Size, Kind: kind, Command: t.Command})
	}
	return traces
}

func meanFrame(layer *index.Layer) int64 {
	return layer.StreamSize() / int64(max(1, layer.FrameCount()))
}

func percent(part, whole int64) float64 { return 100 * float64(part) / float64(max(1, whole)) }

func (r *inspection) writeTable(out io.Writer) error {
	about := cli.NewTable(out)
	mode := r.Mode
	if r.Source != "" {
		mode += ", made from " + r.Source
	}
	for _, row := range [][2]string{{"image", r.Image}, {"digest", r.Digest}, {"platform", r.Platform}, {"mode", mode}, {"index", r.Artifact}} {
		about.Row(row[0], row[1])
	}
	traces := r.Predicted
	if s := r.Startup; s != nil {
		about.Row("start-up", fmt.Sprintf("%s of %s", s.Artifact, s.Created.Format(time.RFC3339)))
		traces = slices.Concat(s.Traces, traces)
		if s.Bundle > 0 {
			about.Row("bundle", units.Size(s.Bundle))
		}
		if s.PrefetchList > 0 {
			about.Row("prefetch list", units.Size(s.PrefetchList))
		}
	}
	for _, t := range traces {
		about.Row("trace", strings.TrimSpace(fmt.Sprintf("%s, %s %s", t.Kind, units.Size(t.Size), t.Command)))
	}
	signatures := "not known, the registry does not say in time"
	if s := r.Signatures; s != nil {
		signatures = fmt.Sprintf("%d of the image, %d of the index, %d of the start-up artifact", s.Image, s.Index, s.Startup)
	}
	about.Row("signatures", signatures)
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
