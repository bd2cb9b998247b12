package artifact

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
)

// Config says what the start-up artifact of an image is made of.
type Config struct {
	// Files are the traces, the most important one first. That of a prefetch list is pushed as one that
	// was recorded.
	Files []startup.File
	// List is a prefetch list in place of the one that the previous artifact has. DropList removes
	// that.
	List     *List
	DropList bool
	// Bundle is a bundle that was pushed, nil for none.
	Bundle *registry.BundleBlob
	// Now is the date of the artifact.
	Now time.Time
}

// List is a prefetch list.
type List struct {
	// Content is what its user has written.
	Content []byte
	// Trace reads the files that the image has of it; it may be empty.
	Trace startup.Trace
}

// Push pushes traces as the start-up artifact of an image in place of the previous one, nil if
// there is none. From that, the prefetch list and traces of other commands are carried over, predicted
// ones only as long as nothing was recorded; its bundle is not, for it belongs to its trace.
func Push(ctx context.Context, client *registry.Client, image *registry.Image, previous *registry.Startup, cfg Config) (registry.Descriptor, error) {
	doing := "pushing traces of " + image.Name.String()
	if len(cfg.Files) == 0 && cfg.List == nil && !cfg.DropList && cfg.Bundle == nil {
		return registry.Descriptor{}, fmt.Errorf("%s: %w", doing, errors.New("there are none"))
	}
	s := registry.Startup{Bundle: cfg.Bundle}
	p := pusher{client: client, image: image}
	for _, f := range cfg.Files {
		f.List = false
		t, err := p.pushTrace(ctx, f)
		if err != nil {
			return registry.Descriptor{}, fmt.Errorf("%s: %w", doing, err)
		}
		s.Traces = append(s.Traces, t)
	}
	var lists []registry.TraceBlob
	switch {
	case cfg.List != nil:
		var err error
		if s.List, lists, err = p.pushList(ctx, cfg.List); err != nil {
			return registry.Descriptor{}, fmt.Errorf("%s: %w", doing, err)
		}
	case previous != nil && !cfg.DropList:
		s.List, lists = previous.List, traces(previous.Traces, isList)
	}
	s.Traces = append(lists, s.Traces...)
	if previous != nil {
		s.Traces = carryOver(s.Traces, previous.Traces)
	}
	return client.PushStartup(ctx, image, s, previous, cfg.Now)
}

// pusher pushes blobs beside an image.
type pusher struct {
	client *registry.Client
	image  *registry.Image
}

func (p pusher) pushTrace(ctx context.Context, f startup.File) (registry.TraceBlob, error) {
	encoded, err := f.Encode()
	if err != nil {
		return registry.TraceBlob{}, err
	}
	t := registry.TraceBlob{Digest: block.Sum(encoded), Size: int64(len(encoded)), Command: f.Command, Predicted: f.Predicted, List: f.List}
	return t, p.client.PushBlob(ctx, p.image.Name.Context(), encoded, registry.TraceMediaType)
}

// pushList pushes a list and its trace, if the image has something of it.
func (p pusher) pushList(ctx context.Context, list *List) (*registry.ListBlob, []registry.TraceBlob, error) {
	if len(list.Content) == 0 || len(list.Content) > registry.MaxListBlob {
		return nil, nil, fmt.Errorf("a prefetch list of %d bytes, the limit is %d", len(list.Content), registry.MaxListBlob)
	}
	if err := p.client.PushBlob(ctx, p.image.Name.Context(), list.Content, registry.ListMediaType); err != nil {
		return nil, nil, err
	}
	blob := &registry.ListBlob{Digest: block.Sum(list.Content), Size: int64(len(list.Content))}
	if len(list.Trace) == 0 {
		return blob, nil, nil
	}
	t, err := p.pushTrace(ctx, startup.File{Trace: list.Trace, List: true})
	return blob, []registry.TraceBlob{t}, err
}

// carryOver returns the pushed traces, and those of other commands of the previous artifact for
// which there is room.
func carryOver(pushed, previous []registry.TraceBlob) []registry.TraceBlob {
	recorded := slices.ContainsFunc(pushed, isRecorded)
	for _, old := range previous {
		replaced := slices.ContainsFunc(pushed, func(t registry.TraceBlob) bool {
			return t.Digest == old.Digest || !t.List && t.Command == old.Command && t.Predicted == old.Predicted
		})
		if !old.List && !replaced && (!recorded || !old.Predicted) && len(pushed) < registry.MaxTraces {
			pushed = append(pushed, old)
		}
	}
	return pushed
}
