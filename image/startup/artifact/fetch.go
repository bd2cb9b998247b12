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
	"github.com/brisk-project/brisk/internal/block"
)

// fetches is how many traces are fetched at a time.
const fetches = 4

// BlobReader reads blobs of a repository and verifies them. [registry.Client] implements it.
type BlobReader interface {
	ReadBlob(ctx context.Context, repo name.Repository, digest block.Digest, size, limit int64) ([]byte, error)
}

// Choose returns the traces that count of those found for an image: all that were recorded; if
// there are none, those that were predicted, of the start-up artifact before those of the index.
func Choose(found *registry.Artifact) []registry.TraceBlob {
	var all []registry.TraceBlob
	if found.Startup != nil {
		all = found.Startup.Traces
	}
	recorded := slices.DeleteFunc(slices.Clone(all), func(t registry.TraceBlob) bool { return t.Predicted })
	switch {
	case len(recorded) > 0:
		return recorded
	case len(all) > 0:
		return all
	default:
		return found.Traces
	}
}

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
