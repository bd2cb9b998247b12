package agent

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/snapshotter"
	"github.com/brisk-project/brisk/node"
)

// leastRate is the rate in bytes a second that an index has to come with. Its image is
// some fifty times as long, and would be long in coming at such a rate.
const leastRate = 2 << 20

// maxRecord bounds the record of an image in bytes: that of one with thousands of layers.
const maxRecord = 4 << 20

// images implements [snapshotter.Images] on a node. The ID of an image is the digest of
// its record: a [node.Image] in JSON, kept among the objects of the node.
type images struct {
	node *node.Node
	// patience is how long a registry may be silent in all while an image is looked up
	// and its index fetched.
	patience time.Duration
	mode     Mode
	// trust says that some images may need signatures.
	trust bool
	// cacheBytes bounds the cache; zero is no bound.
	cacheBytes int64
	// localIndexes are the images indexed here, nil where that is not done.
	localIndexes *localIndexes
}

var _ snapshotter.Images = images{}

// Lookup implements [snapshotter.Images].
func (i images) Lookup(ctx context.Context, pull snapshotter.Pull) (snapshotter.Image, error) {
	if i.mode == ModePlain {
		return nil, &snapshotter.ReasonError{Reason: snapshotter.ReasonMode, Err: errors.New("the node is configured to pull plainly")}
	}
	asked := time.Now()
	manifest, err := block.ParseDigest(pull.Manifest)
	if err != nil {
		return nil, &snapshotter.ReasonError{Reason: snapshotter.ReasonInvalid, Err: fmt.Errorf("manifest of %s: %w", pull.Image, err)}
	}
	if i.localIndexes != nil {
		if found, ok := i.localIndexes.image(pull.Manifest); ok {
			found.Name = pull.Image
			return &image{node: i.node, found: found, deadline: asked.Add(i.patience), fill: i.fills, localIndexes: i.localIndexes}, nil
		}
	}
	found, err := i.node.Find(ctx, pull.Image, manifest, v1.Platform{})
	if err != nil {
		switch {
		case i.localIndexes == nil:
		case errors.Is(err, registry.ErrNoArtifact):
			err = fmt.Errorf("no index; writing one: %w", err)
		case errors.Is(err, registry.ErrUntrusted):
			err = fmt.Errorf("no trusted index; writing one: %w", err)
		}
		return nil, reason(err)
	}
	if found.Indexed() == 0 {
		return nil, reason(fmt.Errorf("lowest layer of %s: %w for it", pull.Image, registry.ErrNoArtifact))
	}
	return &image{node: i.node, found: found, deadline: asked.Add(i.patience), fill: i.fills}, nil
}

// reason classifies an error of a registry.
func reason(err error) error {
	why := snapshotter.ReasonInternal
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		why = snapshotter.ReasonSlow
	case errors.Is(err, node.ErrFalseIndex):
		why = snapshotter.ReasonFalseIndex
	case errors.Is(err, registry.ErrUntrusted):
		why = snapshotter.ReasonUntrusted
	case errors.Is(err, registry.ErrNoArtifact):
		why = snapshotter.ReasonNoIndex
	case errors.Is(err, registry.ErrNoRanges):
		why = snapshotter.ReasonNoRanges
	case errors.Is(err, registry.ErrDenied), errors.Is(err, registry.ErrPlainHTTP):
		why = snapshotter.ReasonDenied
	case errors.Is(err, registry.ErrInvalid):
		why = snapshotter.ReasonInvalid
	case errors.Is(err, block.ErrNotFound):
		why = snapshotter.ReasonNotFound
	case errors.Is(err, block.ErrUnavailable):
		why = snapshotter.ReasonUnreachable
	}
	return &snapshotter.ReasonError{Reason: why, Err: err}
}

// image implements [snapshotter.Image].
type image struct {
	node         *node.Node
	found        *node.Image
	deadline     time.Time // for an index without length
	id           string    // set by Fetch
	fill         func(*node.Image) bool
	localIndexes *localIndexes // that it is one of, nil if it is not
}

// ID implements [snapshotter.Image].
func (i *image) ID() string { return i.id }

// ChainIDs implements [snapshotter.Image].
func (i *image) ChainIDs() []string {
	var chain []digest.Digest
	for _, layer := range i.found.Layers[:i.found.Indexed()] {
		chain = append(chain, digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(layer.DiffID[:])))
	}
	var names []string
	for _, id := range identity.ChainIDs(chain) {
		names = append(names, id.String())
	}
	return names
}

// Fetch implements [snapshotter.Image]. An index that comes more slowly than leastRate
// is not waited for.
func (i *image) Fetch(ctx context.Context) error {
	var size int64
	for _, layer := range i.found.Layers {
		size += layer.IndexSize
	}
	ctx, cancel := context.WithDeadline(ctx, i.deadline.Add(time.Duration(size)*time.Second/leastRate))
	defer cancel()
	if err := i.node.Fetch(ctx, i.found, i.fill); err != nil {
		if i.localIndexes != nil {
			err = errors.Join(err, i.localIndexes.drop(i.found.Digest))
		}
		return reason(err)
	}
	record, err := json.Marshal(i.found)
	if err != nil {
		return fmt.Errorf("encoding the record of %s: %w", i.found.Name, err)
	}
	id, err := i.node.PutObject(record)
	if err != nil {
		return fmt.Errorf("keeping the record of %s: %w", i.found.Name, err)
	}
	i.id = id.String()
	return nil
}

// open returns an image that was fetched before.
func (i images) open(id string) (*node.Image, block.Digest, error) {
	return readRecord(id, i.node.Object)
}

// readRecord returns an image whose record is kept as an object.
func readRecord(id string, get func(block.Digest, int64) ([]byte, error)) (*node.Image, block.Digest, error) {
	key, err := block.ParseDigest(id)
	if err != nil {
		return nil, key, fmt.Errorf("reading the record of image %.80q: %w", id, err)
	}
	record, err := get(key, maxRecord)
	if err != nil {
		return nil, key, fmt.Errorf("reading the record of image %s: %w", key.Short(), err)
	}
	opened := new(node.Image)
	if err := json.Unmarshal(record, opened); err != nil {
		return nil, key, fmt.Errorf("reading the record of image %s: %w", key.Short(), err)
	}
	return opened, key, nil
}

// cachedImages returns the images that are loaded lazily.
func (a *Agent) cachedImages(ctx context.Context) ([]*node.Image, error) {
	ids, err := a.snapshots.Images(ctx)
	if err != nil {
		return nil, err
	}
	var all []*node.Image
	for _, id := range ids {
		// An image without a readable record says so elsewhere.
		if opened, _, err := (images{node: a.node}).open(id); err == nil {
			all = append(all, opened)
		}
	}
	return all, nil
}

// check implements [snapshotter.Config.Check].
func (i images) check(id string, layers int) error {
	if !i.node.HasFalseIndexes() && !i.trust {
		return nil
	}
	opened, _, err := i.open(id)
	if err != nil {
		return nil //nolint:nilerr // mounting it says so
	}
	if err := i.node.CheckTrust(opened); err != nil {
		return err
	}
	return i.node.CheckIndex(opened, layers)
}

// Mount implements [snapshotter.Images].
func (i images) Mount(ctx context.Context, id string, layers int, target string) (snapshotter.Mounted, error) {
	opened, _, err := i.open(id)
	if err != nil {
		return nil, err
	}
	m, err := i.node.MountImage(ctx, opened, layers, node.MountRequest{Target: target, NoFill: !i.fills(opened)})
	if err != nil {
		return nil, err
	}
	return mounted{m}, nil
}

// mounted is a mount as the snapshotter sees it.
type mounted struct{ *node.Mount }

// Graduate implements [snapshotter.Mounted].
func (m mounted) Graduate(ctx context.Context) (snapshotter.Mounted, func(context.Context), error) {
	next, warm, err := m.Mount.Graduate(ctx)
	if next == nil {
		return nil, warm, err
	}
	return mounted{next}, warm, err
}

// restored returns the mounts that the node goes on with.
func (i images) restored(ctx context.Context) (map[string]snapshotter.Mounted, error) {
	mounts, err := i.node.Restored(ctx)
	if err != nil {
		return nil, err
	}
	byTarget := make(map[string]snapshotter.Mounted, len(mounts))
	for _, m := range mounts {
		byTarget[m.Target()] = mounted{m}
	}
	return byTarget, nil
}

// Usage implements [snapshotter.Images].
func (i images) Usage(_ context.Context, id string, layer int) (snapshotter.Usage, error) {
	opened, _, err := i.open(id)
	if err != nil {
		return snapshotter.Usage{}, err
	}
	if layer < 0 || layer >= len(opened.Layers) {
		return snapshotter.Usage{}, fmt.Errorf("image %s has %d layers, no layer %d", opened.Name, len(opened.Layers), layer)
	}
	size, inodes := i.node.LayerBytes(opened, layer)
	return snapshotter.Usage{Bytes: size, Inodes: inodes}, nil
}

// Retain implements [snapshotter.Images]. An image without its record can never be mounted
// again, so only its mounts need anything. Nothing is dropped if a record may be read at
// another time, for who knows what that image needs.
func (i images) Retain(ctx context.Context, ids []string) error {
	var (
		kept    []*node.Image
		records []block.Digest
		errs    []error
	)
	for _, id := range ids {
		opened, key, err := i.open(id)
		if errors.Is(err, block.ErrNotFound) {
			continue
		}
		kept, records, errs = append(kept, opened), append(records, key), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if i.localIndexes == nil {
		return i.node.Retain(ctx, slices.Clip(kept), records...)
	}
	return i.localIndexes.retain(func(indexes []block.Digest) error {
		return i.node.Retain(ctx, slices.Clip(kept), append(records, indexes...)...)
	})
}
