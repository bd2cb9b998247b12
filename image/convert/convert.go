package convert

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/zframes"
	"github.com/brisk-project/brisk/internal/block"
)

// ErrMismatch says that the bytes of a layer are not those its manifest or the
// image configuration names.
var ErrMismatch = errors.New("layer does not match its image")

// defaultNeighbours is how many other tags are looked at for indexes of layers
// that this image shares with them.
const defaultNeighbours = 8

// Config configures [Convert]. The zero value has the defaults.
type Config struct {
	// Mode is what is made of the image. Default [ModeIndex].
	Mode Mode
	// Platforms are those to convert: for each the image that containerd would run there.
	// Default all.
	Platforms []v1.Platform
	// Parallel is how many layers are read at a time. Each needs about two cores
	// and 10 MiB. Default GOMAXPROCS.
	Parallel int
	// ReuseFrom are images whose indexes are used where they share layers with this
	// one, such as its base image. They may be in other repositories, and other
	// registries.
	ReuseFrom []name.Reference
	// NeighbourTags is how many accelerated tags of the same repository are looked at
	// for indexes of layers that are known from nowhere else; those that are
	// spelled most like the tag of the image come first. Default 8, none below 0.
	NeighbourTags int
	// Tag is where the accelerated image index goes. Default the tag of the image
	// with Suffix; an image named by digest gets none.
	Tag *name.Tag
	// Suffix ends the tag of the accelerated image index. Default "_accelerated", which is also
	// where readers look if a registry has no referrers.
	Suffix string
	// Reindex reads every layer, whether it has an index or not. In full mode it converts every
	// layer, whether that was done before or not.
	Reindex bool
	// Checkpoint is after what time the first checkpoint is made, see [Convert]. Default 10 s, none
	// below 0.
	Checkpoint time.Duration
	// TempDir is where a layer is kept that the registry does not take in chunks, in full mode.
	// Default the directory of the system for temporary files.
	TempDir string
	// NoPrediction leaves out the prediction of what a start reads. One that an artifact has
	// already stays.
	NoPrediction bool
	// Build says how layer indexes are made.
	Build index.BuildConfig
	// Progress, if not nil, is told what happens. Its calls do not overlap. It must
	// return soon.
	Progress func(Event)
	// Logger gets the unusual. nil discards.
	Logger *slog.Logger
}

// Result is what a conversion did.
type Result struct {
	// Mode is what was made of the image: [ModeIndex] or [ModeFull]. Reason says why, if the
	// choice was left to the conversion.
	Mode      Mode       `json:"mode"`
	Reason    string     `json:"reason,omitempty"`
	Platforms []Platform `json:"platforms"`
	// Layers are the distinct layers of all platforms in the order in which they
	// first occur.
	Layers []Layer `json:"layers"`
	// Tag is the reference of the accelerated image index, "" if there is none,
	// and TagDigest its digest. TagPushed is false if it was there already.
	Tag       string       `json:"tag,omitempty"`
	TagDigest block.Digest `json:"tagDigest"`
	TagPushed bool         `json:"tagPushed"`
}

// Platform is what a conversion did for one platform of an image.
type Platform struct {
	Platform string       `json:"platform"`
	Manifest block.Digest `json:"manifest"`
	// FullManifest is the manifest of the image in full mode.
	FullManifest block.Digest `json:"full,omitzero"`
	Artifact     block.Digest `json:"artifact"`
	// Pushed is false if the artifact was there already.
	Pushed bool `json:"pushed"`
	// PredictedBytes is how much a start is predicted to read, in bytes; 0 without a prediction, or if
	// that was there already.
	PredictedBytes int64 `json:"predicted,omitempty"`
	// Skipped says why the platform has no artifact, "" if it has one.
	Skipped string `json:"skipped,omitempty"`
	// Layers are the digests of the layers, the lowest first.
	Layers []block.Digest `json:"layers"`
}

// Convert makes and pushes the indexes of the image that ref names, for all its
// platforms. In full mode it makes and pushes another image, with the same layer streams in blobs that are
// faster to read, and its indexes.
//
// Errors wrap those of package registry, [ErrMismatch], what index.Build returns
// for a layer that is not a tar, or the cause of ctx.
//
// A conversion that takes long makes checkpoints: it lists the layers that are finished in an artifact of
// the first platform manifest, which only conversions look for. The next attempt does not read these
// layers again, whatever has ended this one. The last checkpoint is made when ctx ends.
func Convert(ctx context.Context, client *registry.Client, ref name.Reference, cfg Config) (*Result, error) {
	if cfg.Parallel <= 0 {
		cfg.Parallel = runtime.GOMAXPROCS(0)
	}
	if cfg.NeighbourTags == 0 {
		cfg.NeighbourTags = defaultNeighbours
	}
	if cfg.Suffix == "" {
		cfg.Suffix = registry.AcceleratedSuffix
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := cfg.Mode.check(); err != nil {
		return nil, fmt.Errorf("converting %s: %w", ref, err)
	}
	listing, images, err := chosen(ctx, client, ref, cfg.Platforms)
	if err != nil {
		return nil, fmt.Errorf("converting %s: %w", ref, err)
	}
	c := &conversion{
		client: client, ref: ref, cfg: cfg, listing: listing, images: images,
		reusable: make(map[block.Digest]found),
		byDigest: make(map[block.Digest]*work),
		inFull:   make(map[block.Digest]*registry.Artifact),
		report:   &reporter{progress: cfg.Progress}, checkpoints: newCheckpoints(cfg.Checkpoint),
	}
	if tag, ok := c.tag(); ok {
		if _, err := name.NewTag(tag.String()); err != nil {
			return nil, fmt.Errorf("converting %s: tag of the accelerated image index: %w", ref, err)
		}
	}
	if err := c.run(ctx); err != nil {
		return nil, fmt.Errorf("converting %s: %w", ref, err)
	}
	return &c.result, nil
}

// conversion is one call of Convert.
type conversion struct {
	client  *registry.Client
	ref     name.Reference
	cfg     Config
	listing *registry.Listing
	images  []*registry.Image // those to convert
	report  *reporter

	checkpoints *checkpoints

	skipped   []string               // why an image of images cannot be indexed, in their order
	reusable  map[block.Digest]found // indexes that are there, by layer
	artifacts []*registry.Artifact   // those of images, in their order, nil for none
	// targets are what the artifacts made belong to, in the order of images: those themselves, or
	// their images in full mode.
	targets    []*registry.Image
	inFull     map[block.Digest]*registry.Artifact // of images in full mode that were found, by their digest
	compressor *zframes.Compressor                 // nil but in full mode
	works      []*work                             // the distinct layers, in the order in which they first occur
	byDigest   map[block.Digest]*work
	result     Result
}

// work is one distinct layer.
type work struct {
	layer registry.Layer
	// target is what the index describes: the layer itself, or in full mode what was made of it.
	target registry.Layer
	done   Layer
	index  registry.IndexBlob
	// skipped says why the layer has no index, which is no error for a foreign layer,
	// and one that is not a tar.
	skipped string
}

func (c *conversion) run(ctx context.Context) error {
	if err := c.collect(); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{c.chooseMode, c.lookUp, c.indexLayers, c.makeTargets, c.push} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// collect lists the distinct layers.
func (c *conversion) collect() error {
	for _, image := range c.images {
		reason := unfit(image)
		c.skipped = append(c.skipped, reason)
		if reason != "" {
			continue
		}
		for i, layer := range image.Layers {
			if w := c.byDigest[layer.Digest]; w != nil {
				if w.layer.DiffID != layer.DiffID || w.layer.Size != layer.Size {
					return fmt.Errorf("layer %d of %s: %w: blob %s is said to be two different layers",
						i, image.Digest, ErrMismatch, layer.Digest)
				}
				continue
			}
			w := &work{layer: layer, target: layer}
			c.works = append(c.works, w)
			c.byDigest[layer.Digest] = w
			c.report.event(Event{Kind: LayerPlanned, Layer: layer.Digest, TotalBytes: layer.Size})
		}
	}
	return nil
}

// push pushes the artifact of each platform and the image index that lists them.
func (c *conversion) push(ctx context.Context) error {
	var listed []registry.Descriptor
	for i := range c.images {
		platform, d, err := c.pushPlatform(ctx, i)
		if err != nil {
			return err
		}
		if platform.Skipped == "" && !slices.Contains(listed, d) { // an image may be listed for several platforms
			listed = append(listed, d)
		}
		c.result.Platforms = append(c.result.Platforms, platform)
	}
	c.result.Platforms = append(c.result.Platforms, c.skippedManifests()...)
	for _, w := range c.works {
		c.result.Layers = append(c.result.Layers, w.done)
	}
	if len(listed) == 0 {
		return fmt.Errorf("no platform can be started lazily: %s", c.result.Platforms[0].Skipped)
	}
	return c.pushTag(ctx, listed)
}

// pushPlatform pushes the artifact of one of the images, unless that is skipped.
func (c *conversion) pushPlatform(ctx context.Context, i int) (platform Platform, d registry.Descriptor, err error) {
	image, target := c.images[i], c.targets[i]
	platform = Platform{Platform: registry.FormatPlatform(image.Platform()), Manifest: image.Digest, Skipped: c.skipped[i]}
	indexes := make([]registry.IndexBlob, 0, len(image.Layers))
	for _, layer := range image.Layers {
		platform.Layers = append(platform.Layers, layer.Digest)
		w := c.byDigest[layer.Digest]
		if w == nil {
			continue // of a platform that is skipped
		}
		indexes = append(indexes, w.index)
		if w.skipped != "" {
			platform.Skipped = w.skipped
		}
	}
	if platform.Skipped != "" {
		return platform, d, nil
	}
	if target != image {
		platform.FullManifest = target.Digest
	}
	traces, bytes := c.predictions(ctx, target, c.artifacts[i], indexes)
	d, platform.Pushed, err = c.pushArtifact(ctx, target, c.artifacts[i], indexes, traces)
	platform.PredictedBytes, platform.Artifact = bytes, d.Digest
	return platform, d, err
}

func (c *conversion) pushArtifact(
	ctx context.Context, image *registry.Image, existing *registry.Artifact, indexes []registry.IndexBlob, traces []registry.TraceBlob,
) (registry.Descriptor, bool, error) {
	manifest, err := registry.EncodeArtifact(image.Descriptor, indexes, traces...)
	if err != nil {
		return registry.Descriptor{}, false, err
	}
	d := registry.Descriptor{Digest: block.Sum(manifest), Size: int64(len(manifest)), Subject: image.Digest}
	if existing != nil && existing.Digest == d.Digest {
		return d, false, nil
	}
	if err := c.client.PushArtifact(ctx, c.ref.Context(), manifest); err != nil {
		return d, false, err
	}
	return d, true, nil
}

func (c *conversion) pushTag(ctx context.Context, artifacts []registry.Descriptor) error {
	tag, ok := c.tag()
	if !ok {
		return nil
	}
	listed, err := c.client.ListedUnder(ctx, tag)
	if err != nil && !errors.Is(err, registry.ErrInvalid) {
		return err
	}
	kept, err := c.keptFull(ctx, tag, listed)
	if err != nil {
		return err
	}
	base := c.accelerated(kept)
	artifacts = append(artifacts, c.others(base.Images, listed)...)
	slices.SortStableFunc(artifacts, func(a, b registry.Descriptor) int { return place(base.Images, a) - place(base.Images, b) })
	manifest, err := registry.EncodeAccelerated(base, append(artifacts, c.startups(base.Images, listed)...))
	if err != nil {
		return err
	}
	c.result.Tag, c.result.TagDigest = tag.String(), block.Sum(manifest)
	c.result.TagPushed, err = c.client.PushAccelerated(ctx, tag, manifest)
	return err
}

// startups returns the newest start-up artifact of each platform that has one, for the tag to
// keep: as the tag lists it already, or as it was found with the index.
func (c *conversion) startups(images []*registry.Image, listed []registry.Descriptor) []registry.Descriptor {
	for _, a := range c.artifacts {
		if a != nil && a.Startup != nil {
			s := a.Startup
			listed = append(listed, registry.Descriptor{Digest: s.Digest, Size: s.Size, Subject: s.Subject, Startup: true, Created: s.Created})
		}
	}
	var kept []registry.Descriptor
	for _, image := range images {
		var newest *registry.Descriptor
		for _, d := range listed {
			if d.Startup && d.Subject == image.Digest && (newest == nil || d.Created.After(newest.Created)) {
				newest = &d
			}
		}
		if newest != nil && !slices.Contains(kept, *newest) {
			kept = append(kept, *newest)
		}
	}
	return kept
}

// tag returns where the accelerated image index goes.
func (c *conversion) tag() (name.Tag, bool) {
	if c.cfg.Tag != nil {
		return *c.cfg.Tag, true
	}
	if tag, ok := c.ref.(name.Tag); ok {
		return registry.TagWithSuffix(tag, c.cfg.Suffix), true
	}
	return name.Tag{}, false
}
