package artifact

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/prefetch"
	"github.com/brisk-project/brisk/internal/block"
)

// fetches is how many traces are fetched at a time.
const fetches = 4

// BlobReader reads blobs of a repository and verifies them. [registry.Client] implements it.
type BlobReader interface {
	ReadBlob(ctx context.Context, repo name.Repository, digest block.Digest, size, limit int64) ([]byte, error)
}

// SelectTraces returns the traces that count of those found for an image: those of prefetch lists; then all
// that were recorded, or, if there are none, those that were predicted, of the start-up artifact before
// those of the index.
func SelectTraces(found *registry.Artifact) []registry.TraceBlob {
	if found.Startup == nil {
		return found.Traces
	}
	all := found.Startup.Traces
	lists, recorded, predicted := traces(all, isList), traces(all, isRecorded), traces(all, isPredicted)
	switch {
	case len(recorded) > 0:
		return slices.Concat(lists, recorded)
	case len(predicted) > 0:
		return slices.Concat(lists, predicted)
	default:
		return slices.Concat(lists, found.Traces)
	}
}

// FetchLists reads the traces of prefetch lists of a start-up artifact, which may be nil.
func FetchLists(ctx context.Context, blobs BlobReader, repo name.Repository, s *registry.Startup) ([]startup.File, error) {
	if s == nil {
		return nil, nil
	}
	return Fetch(ctx, blobs, repo, traces(s.Traces, isList))
}

// FetchList reads the prefetch list of a start-up artifact, nil if it has none.
func FetchList(ctx context.Context, blobs BlobReader, repo name.Repository, s *registry.Startup) (*prefetch.List, error) {
	if s == nil || s.List == nil {
		return nil, nil
	}
	content, err := blobs.ReadBlob(ctx, repo, s.List.Digest, s.List.Size, registry.MaxListBlob)
	if err != nil {
		return nil, fmt.Errorf("fetching a prefetch list: %w", err)
	}
	return prefetch.Parse(content)
}

// traces returns those of a kind.
func traces(all []registry.TraceBlob, kind func(registry.TraceBlob) bool) []registry.TraceBlob {
	return slices.DeleteFunc(slices.Clone(all), func(t registry.TraceBlob) bool { return !kind(t) })
}

func isList(t registry.TraceBlob) bool { return t.List }

func isRecorded(t registry.TraceBlob) bool { return !t.List && !t.Predicted }

func isPredicted(t registry.TraceBlob) bool { return !t.List && t.Predicted }

// Fetch reads traces. Those that cannot be had or read are left out; only if that is so for all
// of them it is an error.
func Fetch(ctx context.Context, blobs BlobReader, repo name.Repository, traces []registry.TraceBlob) ([]startup.File, error) {
	files, errs := make([]*startup.File, len(traces)), make([]error, len(traces))
	var group errgroup.Group
	group.SetLimit(fetches)
	for i, t := range traces {
		group.Go(func() error {
			content, err := blobs.ReadBlob(ctx, repo, t.Digest, t.Size, registry.MaxTraceBlob)
			if err != nil {
				errs[i] = fmt.Errorf("fetching trace %s: %w", t.Digest.Short(), err)
				return nil
			}
			parsed, err := startup.ParseFile(content)
			if err != nil {
				errs[i] = fmt.Errorf("trace %s: %w", t.Digest.Short(), err)
				return nil
			}
			files[i] = &parsed
			return nil
		})
	}
	_ = group.Wait() //nolint:errcheck // errs has the errors
	var got []startup.File
	for _, f := range files {
		if f != nil {
			got = append(got, *f)
		}
	}
	if len(got) == 0 {
		return nil, errors.Join(errs...)
	}
	return got, nil
}
