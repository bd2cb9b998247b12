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
	"github.com/brisk-project/brisk/image/startup/prefetch"
	"github.com/brisk-project/brisk/internal/block"
)

const (
	// maxPrevious is the most start-up artifacts of other images that are looked at.
	maxPrevious = 4
	// keptShare is the least share, as one in so many, of a trace that an image must still have
	// for the trace to be of use: layers below the one that has changed.
	keptShare = 2
)

// UpdateConfig configures [Update].
type UpdateConfig struct {
	// Inputs are traces or lists of files for the image, the most important one first.
	Inputs [][]byte
	// Previous are the start-up artifacts in its repository of what the tag named before.
	Previous []registry.Descriptor
	// List is the prefetch list, nil for the one that there is, or that a previous artifact has.
	// DropList removes it.
	List     *prefetch.List
	DropList bool
	// Bundle adds a bundle. It is also added where the artifact that is replaced has one.
	Bundle bool
	// Now is the date of the artifact.
	Now time.Time
}

// UpdateResult is a start-up artifact that [Update] has pushed. Sizes are in bytes.
type UpdateResult struct {
	Platform string       `json:"platform"`
	Digest   block.Digest `json:"digest"`
	// Trace is what the traces read, Bundle the size of the bundle, 0 if there is none.
	Trace  int64 `json:"trace"`
	Bundle int64 `json:"bundle,omitempty"`
	// Prefetch is what the image has of a prefetch list that was set or taken over, nil without.
	Prefetch *Prefetched `json:"prefetch,omitempty"`
	// Unchanged says that it was there already: nothing was pushed.
	Unchanged bool `json:"unchanged,omitempty"`
	// From is the platform manifest whose traces were taken over, nil for none.
	From *block.Digest `json:"from,omitempty"`

	Descriptor registry.Descriptor `json:"-"`
}

// Prefetched is what an image has of a prefetch list. Bytes are those that are stored of the files.
type Prefetched struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
	// Unmatched are the lines that match no file.
	Unmatched []prefetch.Match `json:"unmatched,omitempty"`
	// Cut says that nodes prefetch only the first part: the files have more bytes than a trace can.
	Cut bool `json:"cut,omitempty"`
}

// Update gives an image that was converted the start-up artifact that it can have: of the content
// that is given; or else, if nothing was recorded of it, of what was recorded of a previous one as
// far as both have the same layer streams. A prefetch list is resolved anew for each image. It
// returns nil if there is nothing to push.
func Update(ctx context.Context, client *registry.Client, image *registry.Image, cfg UpdateConfig) (*UpdateResult, error) {
	doing := fmt.Sprintf("renewing the traces of %s (%s)", image.Name, image.Platform())
	found, err := client.FindArtifact(ctx, image)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	cfg.Previous = slices.DeleteFunc(slices.Clone(cfg.Previous), func(d registry.Descriptor) bool { return d.Subject == image.Digest })
	r := &renewal{client: client, image: image, cfg: cfg, own: registry.Startup{}}
	if found.Startup != nil {
		r.own, r.replaces = *found.Startup, found.Startup
	}
	if !r.mayChange() {
		return nil, nil
	}
	if r.layers, err = client.LayerIndexes(ctx, image, found); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	if err := r.collect(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return r.push(ctx)
}

// renewal is the making of the start-up artifact of one image.
type renewal struct {
	client   *registry.Client
	image    *registry.Image
	cfg      UpdateConfig
	own      registry.Startup  // the artifact there is, empty if there is none
	replaces *registry.Startup // nil if there is none
	layers   []*index.Layer

	files       []startup.File
	list        *List // that changes, nil if none does
	listChanged bool
	prefetched  *Prefetched
	bundle      *registry.BundleBlob
	build       bool // the bundle
	from        *block.Digest
}

// mayChange reports whether there may be something to push.
func (r *renewal) mayChange() bool {
	recorded, listed := slices.ContainsFunc(r.own.Traces, isRecorded), r.own.List != nil
	switch {
	case len(r.cfg.Inputs) > 0 || r.cfg.List != nil:
		return true
	case r.cfg.DropList:
		return listed || slices.ContainsFunc(r.own.Traces, isList)
	case len(r.cfg.Previous) > 0 && (!recorded || !listed):
		return true
	default:
		return r.cfg.Bundle && r.own.Bundle == nil && (recorded || listed)
	}
}

// collect gets all that the artifact is made of but the bundle.
func (r *renewal) collect(ctx context.Context) error {
	var err error
	recorded, list := traces(r.own.Traces, isRecorded), r.cfg.List
	switch {
	case len(r.cfg.Inputs) > 0:
		r.files, err = ofContent(r.cfg.Inputs, r.layers)
		r.build = r.own.Bundle != nil
	case len(recorded) > 0:
		r.files, err = Fetch(ctx, r.client, r.image.Name.Context(), recorded)
	}
	if err != nil {
		return err
	}
	wantList := list == nil && !r.cfg.DropList && r.own.List == nil
	if wantTraces := len(r.cfg.Inputs) == 0 && len(recorded) == 0; wantTraces || wantList {
		taken, err := r.takeOver(ctx, wantTraces, wantList)
		if err != nil {
			return err
		}
		if taken != nil {
			list = taken
		}
	}
	if r.cfg.DropList {
		r.listChanged = true
		return nil
	}
	if list == nil {
		return nil
	}
	return r.setList(ctx, list)
}

// setList finds the files of a prefetch list.
func (r *renewal) setList(ctx context.Context, list *prefetch.List) error {
	result, err := list.Resolve(ctx, r.layers)
	if err != nil {
		return err
	}
	r.list = &List{Content: list.Content(), Trace: result.Trace}
	r.prefetched = &Prefetched{Files: result.Files, Bytes: result.Bytes, Unmatched: result.Unmatched(), Cut: result.Cut}
	encoded, err := startup.File{Trace: result.Trace, List: true}.Encode()
	if err != nil {
		return err
	}
	same := func(t registry.TraceBlob) bool { return t.List && t.Digest == block.Sum(encoded) }
	r.listChanged = r.own.List == nil || r.own.List.Digest != block.Sum(list.Content()) ||
		len(result.Trace) > 0 && !slices.ContainsFunc(r.own.Traces, same)
	return nil
}

// push pushes the artifact, and its bundle if it is to have one.
func (r *renewal) push(ctx context.Context) (*UpdateResult, error) {
	joined, err := r.joined(ctx)
	if err != nil {
		return nil, err
	}
	renewed := &UpdateResult{Platform: r.image.Platform().String(), Trace: joined.Bytes(), Prefetch: r.prefetched, From: r.from}
	changed := r.listChanged || len(r.files) > 0 && (len(r.cfg.Inputs) > 0 || r.from != nil) ||
		len(joined) > 0 && r.cfg.Bundle && r.own.Bundle == nil
	if !changed && r.prefetched == nil {
		return nil, nil
	}
	if !changed {
		renewed.Unchanged, renewed.Digest = true, r.own.Digest
		renewed.Descriptor = registry.Descriptor{Digest: r.own.Digest, Size: r.own.Size, Subject: r.own.Subject, Startup: true, Created: r.own.Created}
		return renewed, nil
	}
	// A bundle has the pages of the list, too.
	if r.listChanged {
		r.bundle, r.build = nil, r.build || r.own.Bundle != nil
	}
	if r.bundle == nil && (r.cfg.Bundle || r.build) && len(joined) > 0 {
		if r.bundle, err = PushBundle(ctx, r.client, r.image, r.layers, joined, BundleConfig{}); err != nil {
			return nil, err
		}
	}
	pushed, err := Push(ctx, r.client, r.image, r.replaces, Config{
		Files: r.files, List: r.list, DropList: r.cfg.DropList, Bundle: r.bundle, Now: r.cfg.Now,
	})
	if err != nil {
		return nil, err
	}
	renewed.Digest, renewed.Descriptor = pushed.Digest, pushed
	if r.bundle != nil {
		renewed.Bundle = r.bundle.Size
	}
	return renewed, nil
}

// joined returns the trace of the artifact: that of its prefetch list, then those that were recorded.
func (r *renewal) joined(ctx context.Context) (startup.Trace, error) {
	all := slices.Clone(r.files)
	switch {
	case r.list != nil:
		all = append(all, startup.File{Trace: r.list.Trace, List: true})
	case !r.cfg.DropList:
		lists, err := FetchLists(ctx, r.client, r.image.Name.Context(), &r.own)
		if err != nil {
			return nil, err
		}
		all = append(all, lists...)
	}
	return startup.Join(all).Trace, nil
}

// ofContent reads traces and lists of files. What is not of the image is left out.
func ofContent(content [][]byte, layers []*index.Layer) (all []startup.File, err error) {
	for _, one := range content {
		f, _, _, err := files.Load(one, layers)
		if errors.Is(err, files.ErrOtherImage) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(f.Trace) > 0 {
			all = append(all, f)
		}
	}
	return all, nil
}

// takeOver takes from previous images, the newest first, what was recorded of one, as far as this
// image has the same layer streams, and the prefetch list, which it returns. A bundle is of use only if
// all that it has is in them.
func (r *renewal) takeOver(ctx context.Context, wantTraces, wantList bool) (list *prefetch.List, err error) {
	slices.SortStableFunc(r.cfg.Previous, func(a, b registry.Descriptor) int { return b.Created.Compare(a.Created) })
	var errs []error // of what cannot be had any more
	for _, d := range r.cfg.Previous[:min(len(r.cfg.Previous), maxPrevious)] {
		old, err := r.client.Startup(ctx, r.image.Name.Context(), d.Digest)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if wantList && list == nil {
			list, err = r.takeList(ctx, old)
			errs = append(errs, err)
		}
		if wantTraces && len(r.files) == 0 {
			errs = append(errs, r.takeTraces(ctx, old))
		}
	}
	if len(r.files) > 0 || list != nil || !wantTraces {
		return list, nil // a list that cannot be had is as good as none
	}
	return nil, errors.Join(errs...)
}

// takeList takes the prefetch list of a previous image, nil if it has none.
func (r *renewal) takeList(ctx context.Context, old *registry.Startup) (*prefetch.List, error) {
	list, err := FetchList(ctx, r.client, r.image.Name.Context(), old)
	if list != nil {
		r.from, r.build = &old.Subject, r.build || old.Bundle != nil
	}
	return list, err
}

// takeTraces takes what was recorded of a previous image.
func (r *renewal) takeTraces(ctx context.Context, old *registry.Startup) error {
	recorded := traces(old.Traces, isRecorded)
	if len(recorded) == 0 {
		return nil
	}
	read, err := Fetch(ctx, r.client, r.image.Name.Context(), recorded)
	if err != nil {
		return err
	}
	sizes, whole := files.StreamSizes(r.layers), true
	for _, f := range read {
		before := f.Trace.Bytes()
		f.Trace = f.Trace.Clip(sizes)
		// A trace is of whole pages: it may end up to a page after each layer.
		kept := startup.Trace(nil).Union(f.Trace).Bytes()
		whole = whole && kept == before
		if kept > 0 && kept >= before/keptShare {
			r.files = append(r.files, f)
		}
	}
	if len(r.files) > 0 {
		r.from, r.build = &old.Subject, r.build || old.Bundle != nil
		if whole {
			r.bundle = old.Bundle
		}
	}
	return nil
}
