package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/signature"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/source"
)

func newVerifyCommand(shared *globals) *cobra.Command {
	var platform string
	var keys []string
	cmd := &cobra.Command{
		Use:   "verify IMAGE",
		Short: "Read an image through its index and check every digest",
		Long: "Read every layer of an image through its index, frame by frame, as a node does, and\n" +
			"check every block digest and the diffID of every layer. With --key, first check that index\n" +
			"and start-up artifact are signed by one of the keys, as nodes do with index.trust signed.\n\n" + imagesHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return verify(cmd.Context(), shared, cmd.OutOrStdout(), args[0], platform, keys)
		},
	}
	cmd.Flags().StringVar(&platform, "platform", "", "platform of a multi-platform image (default: this machine's)")
	cmd.Flags().StringArrayVar(&keys, "key", nil, "file with public keys, such as cosign.pub; can be repeated")
	return cmd
}

func verify(ctx context.Context, shared *globals, out io.Writer, image, platform string, keyFiles []string) error {
	chosen, err := parsePlatform(platform)
	if err != nil {
		return err
	}
	keys, err := readKeys(keyFiles)
	if err != nil {
		return err
	}
	client, err := shared.imageClient(0)
	if err != nil {
		return err
	}
	return client.end(ctx, client.verify(ctx, out, shared.progressTo(), image, chosen, keys))
}

func (c *imageClient) verify(ctx context.Context, out, progress io.Writer, image string, platform v1.Platform, keys []*signature.Key) error {
	ref, err := c.parse(image, false)
	if err != nil {
		return err
	}
	found, err := openReference(ctx, c.Client, ref, platform)
	if err != nil {
		return err
	}
	if len(keys) > 0 {
		if err := verifySignatures(ctx, c.Client, out, found, keys); err != nil {
			return err
		}
	}
	bars := cli.NewProgress(progress, "verifying")
	var blocks int64
	for _, layer := range found.layers {
		bars.Grow(layer.StreamSize())
		blocks += int64(block.Count(layer.StreamSize()))
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2) // each decodes on a core of its own
	for _, layer := range found.layers {
		group.Go(func() error { return verifyLayer(ctx, c.Client, found.image.Name.Context(), layer, bars) })
	}
	if err := errors.Join(group.Wait(), bars.Finish()); err != nil {
		return fmt.Errorf("verifying %s: %w", image, err)
	}
	_, err = fmt.Fprintf(out, "%s: %d layers, %d blocks, every digest is right\n", found.image.Digest, len(found.layers), blocks)
	return err
}

// layerLayout is the block.Layout of a single layer.
type layerLayout struct{ *index.Layer }

// StreamSize implements [block.Layout].
func (l layerLayout) StreamSize(layer block.Digest) (int64, bool) {
	return l.Layer.StreamSize(), layer == l.StreamID()
}

// BlockDigest implements [block.Layout].
func (l layerLayout) BlockDigest(k block.Key) (block.Digest, bool) {
	if k.Layer != l.StreamID() {
		return block.Digest{}, false
	}
	return l.Layer.BlockDigest(k.Index)
}

// verifyLayer reads a layer stream extent by extent and hashes it on the way.
func verifyLayer(ctx context.Context, client *registry.Client, repo name.Repository, layer *index.Layer, bars *cli.Progress) error {
	origin, err := registry.NewSource(client, registry.SourceConfig{})
	if err != nil {
		return err
	}
	defer origin.Close()
	origin.Add(repo, layer)
	blocks := source.Retry(source.Verify(origin, layerLayout{layer}, source.VerifyConfig{Name: "registry"}), source.RetryConfig{})
	stream := sha256.New()
	total := block.Count(layer.StreamSize())
	window := uint32(block.ExtentBlocks)
	if !layer.Seekable() {
		window = total // it can only be read whole
	}
	for first := uint32(0); first < total; {
		want := block.Range{Layer: layer.StreamID(), First: first, Count: min(window, total-first)}
		if err := hashRange(ctx, blocks, want, stream, bars); err != nil {
			return fmt.Errorf("layer %s: %w", layer.BlobDigest(), err)
		}
		if first += want.Count; origin.Unranged(layer.StreamID()) {
			window = total
		}
	}
	if got := block.Digest(stream.Sum(nil)); got != layer.DiffID() {
		return fmt.Errorf("layer %s: its stream has digest %s: %w", layer.DiffID(), got, block.ErrCorrupt)
	}
	return nil
}

// hashRange writes the blocks of a range in order, whatever the order they come in.
func hashRange(ctx context.Context, blocks block.Source, want block.Range, stream io.Writer, bars *cli.Progress) error {
	next, early := want.First, make(map[uint32][]byte)
	write := func(data []byte) error {
		next++
		bars.Add(int64(len(data)))
		_, err := stream.Write(data)
		return err
	}
	return blocks.Fetch(ctx, block.Request{Range: want, Class: block.ClassFill}, func(k block.Key, data []byte) error {
		if !want.Contains(k) {
			return nil
		}
		if k.Index != next {
			early[k.Index] = append([]byte(nil), data...)
			return nil
		}
		if err := write(data); err != nil {
			return err
		}
		for {
			held, ok := early[next]
			if !ok {
				return nil
			}
			delete(early, next)
			if err := write(held); err != nil {
				return err
			}
		}
	})
}
