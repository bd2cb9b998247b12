package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/signing"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/image/startup/files"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/units"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/node/waterfall"
)

func (o *traceOptions) push(ctx context.Context, out io.Writer, notef func(string, ...any), image string, paths []string) error {
	signers, err := o.sign.load(ctx)
	if err != nil {
		return err
	}
	found, err := o.openImage(ctx, image, o.platform)
	if err != nil {
		return err
	}
	cfg := artifact.Config{Now: time.Now()}
	for _, path := range paths {
		f, err := loadTrace(notef, path, found)
		if err != nil {
			return err
		}
		if o.command != "" {
			f.Command = o.command
		}
		cfg.Files = append(cfg.Files, f)
	}
	client, err := o.registryClient()
	if err != nil {
		return err
	}
	defer client.Close()
	if o.bundle {
		lists, err := artifact.FetchLists(ctx, client, found.image.Name.Context(), found.artifact.Startup)
		if err != nil {
			return err
		}
		bundled := startup.Join(append(lists, cfg.Files...)).Trace
		cfg.Bundle, err = artifact.PushBundle(ctx, client, found.image, found.layers, bundled, artifact.BundleConfig{})
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%s  bundle %s of %s\n", found.image.Name, cfg.Bundle.Digest, units.Size(cfg.Bundle.Size)); err != nil {
			return err
		}
	}
	pushed, err := artifact.Push(ctx, client, found.image, found.artifact.Startup, cfg)
	if err != nil {
		return err
	}
	if previous := found.artifact.Startup; previous != nil && previous.Bundle != nil && !o.bundle {
		notef("nodes no longer use the bundle of the previous trace; to push a new one, use --bundle\n")
	}
	if _, err := fmt.Fprintf(out, "%s  start-up artifact %s\n", found.image.Name, pushed.Digest); err != nil {
		return err
	}
	signed := []*signing.Artifact{{Kind: signing.Startup, Platform: registry.FormatPlatform(found.image.Platform()), Digest: pushed.Digest}}
	if err := signing.Sign(ctx, client, found.image.Name.Context(), signed, signers); err != nil {
		return err
	}
	return writeSigned(out, signed)
}

// shownTrace is what "brisk trace show" prints. Sizes are in bytes.
type shownTrace struct {
	Image     string           `json:"image,omitempty"`
	Digest    string           `json:"digest,omitempty"`
	Command   string           `json:"command,omitempty"`
	Predicted bool             `json:"predicted"`
	Listed    bool             `json:"listed"` // it begins with the files of a prefetch list
	Bytes     int64            `json:"bytes"`
	Spans     int              `json:"spans"`
	Blocks    uint32           `json:"blocks"`
	Files     []files.FileRead `json:"files,omitempty"`
	// Reads are all spans in their order, if that was asked for.
	Reads []waterfall.OrderedRead `json:"reads,omitempty"`
	// Layers are those of a trace that is shown without its image, in the order of the first read.
	Layers []shownLayer `json:"layers,omitempty"`

	onlyList bool
}

func (o *traceOptions) show(ctx context.Context, out io.Writer, notef func(string, ...any), args []string) error {
	if err := cli.CheckFormat(o.output); err != nil {
		return err
	}
	if o.draw != "" {
		if err := waterfall.CheckChartName(o.draw); err != nil {
			return err
		}
	}
	if info, err := os.Stat(args[0]); len(args) == 1 && err == nil && info.Mode().IsRegular() {
		if o.draw != "" || o.all {
			return errors.New("only the layers are known of a trace without its image: name the image, too")
		}
		return o.showFile(out, args[0])
	}
	found, err := o.openImage(ctx, args[0], o.platform)
	if err != nil {
		return err
	}
	all := make([]startup.File, 1)
	if len(args) == 1 {
		all, err = o.registryTraces(ctx, found)
	} else {
		all[0], err = loadTrace(notef, args[1], found)
	}
	if err != nil {
		return err
	}
	f := startup.Join(all)
	named, err := files.FileReads(f.Trace, found.layers)
	if err != nil {
		return err
	}
	reads, err := files.LayerReads(f.Trace, found.layers)
	if err != nil {
		return err
	}
	shown := describeTrace(f)
	shown.Listed = slices.ContainsFunc(all, func(f startup.File) bool { return f.List })
	if o.draw != "" {
		return waterfall.WriteChart(o.draw, &waterfall.ReadOrder{Image: found.image.Name.String(), Description: shown.about(), Reads: waterfall.NewOrderedReads(reads)})
	}
	if o.all {
		shown.Reads = waterfall.NewOrderedReads(reads)
	}
	shown.Image, shown.Digest, shown.Files = found.image.Name.String(), found.image.Digest.String(), named
	return cli.Print(out, o.output, shown, shown.writeTable)
}

func describeTrace(f startup.File) shownTrace {
	shown := shownTrace{Command: f.Command, Predicted: f.Predicted, Listed: f.List, onlyList: f.List, Bytes: f.Trace.Bytes(), Spans: len(f.Trace)}
	for _, r := range f.Trace.Blocks() {
		shown.Blocks += r.Count
	}
	return shown
}

// shownLayer is what a trace reads of a layer.
type shownLayer struct {
	Stream string `json:"stream"`
	Bytes  int64  `json:"bytes"`
	Spans  int    `json:"spans"`
}

// showFile shows a trace without its image.
func (o *traceOptions) showFile(out io.Writer, path string) error {
	f, err := parseTraceFile(path)
	if err != nil {
		return err
	}
	shown := describeTrace(f)
	for _, s := range f.Trace {
		i := slices.IndexFunc(shown.Layers, func(l shownLayer) bool { return l.Stream == s.Layer.String() })
		if i < 0 {
			i = len(shown.Layers)
			shown.Layers = append(shown.Layers, shownLayer{Stream: s.Layer.String()})
		}
		shown.Layers[i].Bytes += s.Length
		shown.Layers[i].Spans++
	}
	return cli.Print(out, o.output, shown, shown.writeTable)
}

// about says where the trace is from.
func (s shownTrace) about() string {
	how := "recorded"
	if s.Predicted {
		how = "predicted"
	}
	switch {
	case s.onlyList:
		how = "prefetch list"
	case s.Listed:
		how = "prefetch list, then " + how
	}
	if s.Command != "" {
		how += ", " + s.Command
	}
	return how
}

func (s shownTrace) writeTable(out io.Writer) error {
	about := cli.NewTable(out)
	if s.Image != "" {
		about.Row("image", s.Image)
		about.Row("digest", s.Digest)
	}
	about.Row("trace", s.about())
	about.Row("reads", fmt.Sprintf("%s in %d spans, in %d blocks of %s\n", units.Size(s.Bytes), s.Spans, s.Blocks, units.Size(block.Size)))
	if err := about.Flush(); err != nil {
		return err
	}
	if s.Reads != nil {
		order := waterfall.ReadOrder{Reads: s.Reads}
		return order.WriteText(out)
	}
	table := cli.NewTable(out)
	if s.Image == "" {
		table.Row("LAYER", "READ", "SPANS")
		for _, l := range s.Layers {
			table.Row(shortDigest(l.Stream), units.Size(l.Bytes), strconv.Itoa(l.Spans))
		}
		return table.Flush()
	}
	table.Row("ORDER", "READ", "OF", "LAYER", "FILE")
	for _, f := range s.Files {
		path, of, layer := f.Path, units.Size(f.Size), strconv.Itoa(f.Layer)
		if path == "" {
			path, of = "(between files)", "-"
		}
		if f.Layer < 0 {
			path, layer = "(of another image)", "-"
		}
		table.Row(strconv.Itoa(f.Order), units.Size(f.Bytes), of, layer, path)
	}
	return table.Flush()
}

func (o *traceOptions) export(ctx context.Context, out io.Writer, notef func(string, ...any), image string) error {
	if o.output == "" {
		return errors.New("no file for the trace: pass -o FILE, or -o - for standard output")
	}
	if o.dir != "" {
		answer, err := o.askNode(ctx, node.Client.Trace, node.TraceRequest{Image: image})
		if err != nil {
			return err
		}
		if answer.Source == node.TraceNone {
			return fmt.Errorf("the node in %s has no trace of %s", o.dir, image)
		}
		f, err := startup.ParseFile(answer.File)
		if err != nil {
			return err
		}
		notef("%s: trace from: %s\n", image, answer.Source)
		return writeTraceFile(out, o.output, f)
	}
	found, err := o.openImage(ctx, image, o.platform)
	if err != nil {
		return err
	}
	all, err := o.registryTraces(ctx, found)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(f startup.File) bool { return f.List })
	if len(all) == 0 {
		return fmt.Errorf("%s has no trace in the registry but a prefetch list; print that with \"brisk prefetch show --raw\"", image)
	}
	return writeTraceFile(out, o.output, startup.Join(all))
}

func (o *traceOptions) importFile(ctx context.Context, out io.Writer, notef func(string, ...any), image, path string) error {
	found, err := o.openImage(ctx, image, o.platform)
	if err != nil {
		return err
	}
	f, err := loadTrace(notef, path, found)
	if err != nil {
		return err
	}
	if o.command != "" {
		f.Command = o.command
	}
	if o.output != "" {
		return writeTraceFile(out, o.output, f)
	}
	encoded, err := f.Encode()
	if err != nil {
		return err
	}
	if _, err := o.askNode(ctx, node.Client.AddTrace, node.TraceRequest{Image: image, File: encoded}); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s  added a trace of %s, loaded first at the next start\n", image, units.Size(f.Trace.Bytes()))
	return err
}

// askNode asks the node in --dir, for the platform of the flags.
func (o *traceOptions) askNode(
	ctx context.Context, ask func(node.Client, context.Context, node.TraceRequest) (node.TraceResponse, error), req node.TraceRequest,
) (node.TraceResponse, error) {
	platform, err := parsePlatform(o.platform)
	if err != nil {
		return node.TraceResponse{}, err
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return node.TraceResponse{}, fmt.Errorf("finding --dir: %w", err)
	}
	req.Platform = platform
	return ask(node.Client{Dir: dir}, ctx, req)
}
