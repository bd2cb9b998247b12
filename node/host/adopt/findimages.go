package adopt

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
)

// maxLayers bounds the layers of an image. Overlayfs mounts 500 at most.
const maxLayers = 512

// Image is an image that a snapshotter has unpacked.
type Image struct {
	Namespace string
	// Names are the references to it, empty if it is only known by its content.
	Names []string
	// Config is the digest of its config, Snapshotter what has unpacked it, and Chain
	// the names of its snapshots, the lowest one first.
	Config      digest.Digest
	Snapshotter string
	Chain       []string
	// Complete says of an image that cannot be adopted that containerd has all its layers,
	// so that it can be unpacked again.
	Complete bool
}

// String implements fmt.Stringer.
func (i *Image) String() string {
	return fmt.Sprintf("%s/%s", i.Namespace, cmp.Or(strings.Join(i.Names, ","), i.Config.String()))
}

// Plan lists the images to adopt.
type Plan struct {
	// Name is the snapshotter that is to have them.
	Name string
	// Images are the ones that it lacks.
	Images []*Image
	// Foreign are those that it lacks and that cannot be adopted, because their
	// snapshotter keeps no directories.
	Foreign []*Image
	// Present is how many it has already.
	Present int

	client *containerd.Client
}

// Lost returns the images that cannot be adopted and that containerd has no layers of:
// they have to be pulled again before they can be run.
func (p *Plan) Lost() []*Image {
	return slices.DeleteFunc(slices.Clone(p.Foreign), func(i *Image) bool { return i.Complete })
}

// Snapshots returns how many snapshots the images to adopt have at most.
func (p *Plan) Snapshots() int {
	seen := make(map[string]bool)
	for _, image := range p.Images {
		for _, name := range image.Chain {
			seen[image.Namespace+"/"+name] = true
		}
	}
	return len(seen)
}

// Find asks containerd for the images that other snapshotters than the one called name have
// unpacked. It does not matter whether containerd knows that one. For a moment there
// are views of snapshots; otherwise nothing is changed.
func Find(ctx context.Context, client *containerd.Client, name string) (*Plan, error) {
	all, err := client.NamespaceService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the namespaces of containerd: %w", err)
	}
	plan := &Plan{Name: name, client: client}
	for _, namespace := range all {
		if err := plan.find(namespaces.WithNamespace(ctx, namespace), namespace); err != nil {
			return nil, fmt.Errorf("looking for images in namespace %s: %w", namespace, err)
		}
	}
	return plan, nil
}

// find adds the images of a namespace.
func (p *Plan) find(ctx context.Context, namespace string) error {
	configs, err := configs(ctx, p.client)
	if err != nil || len(configs) == 0 {
		return err
	}
	records, err := records(ctx, p.client)
	if err != nil {
		return err
	}
	known, err := p.exists(ctx)
	if err != nil {
		return err
	}
	for _, info := range configs {
		image := &Image{Namespace: namespace, Config: info.Digest, Names: namesOf(records[info.Digest])}
		had, err := p.choose(ctx, image, info.Labels, known)
		switch {
		case err != nil:
			return err
		case had:
			p.Present++
		case image.Snapshotter == "":
		default:
			list := &p.Images
			if adoptable, err := p.adoptable(ctx, image); err != nil {
				return err
			} else if !adoptable {
				list, image.Complete = &p.Foreign, p.complete(ctx, records[info.Digest])
			}
			*list = append(*list, image)
		}
	}
	return nil
}

// complete reports whether all layers of one of the records are there.
func (p *Plan) complete(ctx context.Context, records []images.Image) bool {
	return slices.ContainsFunc(records, func(image images.Image) bool {
		available, _, _, missing, err := images.Check(ctx, p.client.ContentStore(), image.Target, platforms.Default())
		return err == nil && available && len(missing) == 0
	})
}

// exists returns what says whether the snapshotter has a snapshot.
func (p *Plan) exists(ctx context.Context) (func(ctx context.Context, name string) (bool, error), error) {
	plugins, err := p.client.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1")
	if err != nil {
		return nil, fmt.Errorf("asking for snapshotters: %w", err)
	}
	ours := p.client.SnapshotService(p.Name)
	known := false
	for _, plugin := range plugins.GetPlugins() {
		known = known || plugin.GetID() == p.Name
	}
	return func(ctx context.Context, name string) (bool, error) {
		if !known {
			return false, nil
		}
		return has(ctx, ours, name)
	}, nil
}

// choose sets snapshotter and chain of an image, and reports whether ours has it already.
func (p *Plan) choose(
	ctx context.Context, image *Image, labels map[string]string, exists func(context.Context, string) (bool, error),
) (had bool, err error) {
	var errs []error
	for _, label := range sortedKeys(labels) {
		snapshotter, ok := strings.CutPrefix(label, LabelSnapshot)
		if !ok || snapshotter == p.Name {
			continue
		}
		chain, err := chainOf(ctx, p.client.SnapshotService(snapshotter), labels[label])
		if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
			continue // it is not unpacked, or its snapshotter is gone
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		top := chain[len(chain)-1]
		if have, err := exists(ctx, top); err != nil {
			return false, err
		} else if have && labels[LabelSnapshot+p.Name] == top {
			return true, nil
		}
		image.Snapshotter, image.Chain = snapshotter, chain
		return false, nil
	}
	if len(errs) > 0 {
		return false, fmt.Errorf("asking for the snapshots of image %s: %w", image, errs[0])
	}
	return false, nil
}

// chainOf returns a snapshot and its parents, the lowest one first.
func chainOf(ctx context.Context, from snapshots.Snapshotter, top string) ([]string, error) {
	var chain []string
	for name := top; name != ""; {
		if len(chain) == maxLayers {
			return nil, fmt.Errorf("%w: snapshot %s has more than %d parents", errdefs.ErrInvalidArgument, top, maxLayers)
		}
		if _, err := digest.Parse(name); err != nil {
			return nil, fmt.Errorf("%w: snapshot %s has a parent that is no layer: %w", errdefs.ErrInvalidArgument, top, err)
		}
		info, err := from.Stat(ctx, name)
		if err != nil {
			return nil, err
		}
		chain = append(chain, name)
		name = info.Parent
	}
	slices.Reverse(chain)
	return chain, nil
}
