package artifact

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/files"
	"github.com/brisk-project/brisk/internal/block"
)

const (
	// maxPrevious is the most start-up artifacts of other images that are looked at.
	maxPrevious = 4
	// keptShare is the least share, as one in so many, of a trace that an image must still have
	// for the trace to be of use: layers below the one that has changed.
	keptShare = 2
)

// RenewConfig configures [Renew].
type RenewConfig struct {
	// Content are traces or lists of files for the image, the most important one first.
	Content [][]byte
	// Previous are the start-up artifacts in its repository of what the tag named before.
	Previous []registry.Descriptor
	// Bundle adds a bundle. It is also added where the artifact that is replaced has one.
	Bundle bool
	// Now is the date of the artifact.
	Now time.Time
}

// Renewed is a start-up artifact that [Renew] has pushed. Sizes are in bytes.
type Renewed struct {
	Platform string       `json:"platform"`
	Digest   block.Digest `json:"digest"`
	// Trace is what the traces read, Bundle the size of the bundle, 0 if there is none.
	Trace  int64 `json:"trace"`
	Bundle int64 `json:"bundle,omitempty"`
	// From is the platform manifest whose traces were taken over, nil for none.
	From *block.Digest `json:"from,omitempty"`

	Descriptor registry.Descriptor `json:"-"`
}

// start is what an artifact is to be made of.
type start struct {
	files  []startup.File
	bundle *registry.BundleBlob
	build  bool // the bundle
	from   *block.Digest
}

// Renew gives an image that was converted the start-up artifact that it can have: of the content
// that is given; or else, if nothing was recorded of it, of what was recorded of a previous one as
// far as both have the same layer streams. It returns nil if there is nothing to push.
func Renew(ctx context.Context, client *registry.Client, image *registry.Image, cfg RenewConfig) (*Renewed, error) {
	doing := fmt.Sprintf("renewing the traces of %s (%s)", image.Name, image.Platform())
	found, err := client.FindArtifact(ctx, image)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	own := found.Startup
	recorded := own != nil && slices.ContainsFunc(own.Traces, isRecorded)
	if len(cfg.Content) == 0 && (recorded && (!cfg.Bundle || own.Bundle != nil) || !recorded && len(cfg.Previous) == 0) {
		return nil, nil
	}
	layers, err := client.LayerIndexes(ctx, image, found)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	var s start
	switch {
	case len(cfg.Content) > 0:
		s, err = ofContent(cfg.Content, layers)
		s.build = own != nil && own.Bundle != nil
	case recorded:
		s.files, err = Fetch(ctx, client, image.Name.Context(), slices.DeleteFunc(slices.Clone(own.Traces), func(t registry.TraceBlob) bool { return !isRecorded(t) }))
	default:
		s, err = takeOver(ctx, client, image, layers, cfg.Previous)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	if len(s.files) == 0 {
		return nil, nil
	}
	joined := startup.Join(s.files).Trace
	if s.bundle == nil && (cfg.Bundle || s.build) {
		if s.bundle, err = PushBundle(ctx, client, image, layers, joined, BundleConfig{}); err != nil {
			return nil, err
		}
	}
	pushed, err := Push(ctx, client, image, own, Config{Files: s.files, Bundle: s.bundle, Now: cfg.Now})
	if err != nil {
		return nil, err
	}
	renewed := &Renewed{Platform: image.Platform().String(), Digest: pushed.Digest, Trace: joined.Bytes(), From: s.from, Descriptor: pushed}
	if s.bundle != nil {
		renewed.Bundle = s.bundle.Size
	}
	return renewed, nil
}

func isRecorded(t registry.TraceBlob) bool { return !t.Predicted }

// ofContent reads traces and lists of files. What is not of the image is left out.
func ofContent(content [][]byte, layers []*index.Layer) (s start, err error) {
	for _, one := range content {
		f, _, _, err := files.Load(one, layers)
		if errors.Is(err, files.ErrOtherImage) {
			continue
		}
		if err != nil {
			return s, err
		}
		if len(f.Trace) > 0 {
			s.files = append(s.files, f)
		}
	}
	return s, nil
}

// takeOver returns what was recorded of a previous image, the newest first, as far as this one has
// the same layer streams. A bundle is of use only if it has all of them.
func takeOver(ctx context.Context, client *registry.Client, image *registry.Image, layers []*index.Layer, previous []registry.Descriptor) (s start, err error) {
	previous = slices.DeleteFunc(slices.Clone(previous), func(d registry.Descriptor) bool { return d.Subject == image.Digest })
	slices.SortStableFunc(previous, func(a, b registry.Descriptor) int { return b.Created.Compare(a.Created) })
	sizes := files.Sizes(layers)
	var errs []error // of what cannot be had any more
	for _, d := range previous[:min(len(previous), maxPrevious)] {
		old, err := client.Startup(ctx, image.Name.Context(), d.Digest)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		recorded := slices.DeleteFunc(old.Traces, func(t registry.TraceBlob) bool { return !isRecorded(t) })
		if len(recorded) == 0 {
			continue
		}
		read, err := Fetch(ctx, client, image.Name.Context(), recorded)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		whole := true
		for _, f := range read {
			before := f.Trace.Bytes()
			f.Trace = f.Trace.Clip(sizes)
			// A trace is of whole pages: it may end up to a page after each layer.
			kept := startup.Trace(nil).Union(f.Trace).Bytes()
			whole = whole && kept == before
			if kept > 0 && kept >= before/keptShare {
				s.files = append(s.files, f)
			}
		}
		if len(s.files) > 0 {
			s.from, s.build = &old.Subject, old.Bundle != nil
			if whole {
				s.bundle = old.Bundle
			}
			return s, nil
		}
	}
	return s, errors.Join(errs...)
}
