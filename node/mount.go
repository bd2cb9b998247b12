package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs"
)

// MountRequest is the request to mount an image.
type MountRequest struct {
	// Image is its reference.
	Image string `json:"image"`
	// Platform says which of the image's platforms; zero is this machine's.
	Platform v1.Platform `json:"platform,omitzero"`
	// Target is an existing directory, as an absolute path.
	Target string `json:"target"`
	// Overlay makes the mount writable: the directory, made if missing, keeps what
	// is written. Empty mounts read-only.
	Overlay string `json:"overlay,omitempty"`
	// Temporary removes Overlay when the image is unmounted.
	Temporary bool `json:"temporary,omitempty"`
	// NoFill loads only what is read, and what an earlier start of the image has read.
	NoFill bool `json:"noFill,omitempty"`

	// again says that the image was mounted before and that no container starts now.
	again bool
}

// mountConfig prepares the directories of an overlay.
func (r *MountRequest) mountConfig() (lazyfs.MountConfig, error) {
	cfg := lazyfs.MountConfig{NoFill: r.NoFill}
	if r.Overlay == "" {
		return cfg, nil
	}
	cfg.Overlay = &lazyfs.Overlay{Upper: filepath.Join(r.Overlay, "upper"), Work: filepath.Join(r.Overlay, "work")}
	for _, dir := range []string{cfg.Overlay.Upper, cfg.Overlay.Work} {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the mode of the mounted root
			return cfg, fmt.Errorf("making overlay directory: %w", err)
		}
	}
	return cfg, nil
}

// Mount is a mounted image.
type Mount struct {
	node   *Node
	image  *Image
	repo   name.Repository
	layers []*openLayer
	mount  *lazyfs.Mount
	req    MountRequest
}

// Mount resolves an image, fetches its indexes and mounts it. It waits for Run. An image
// whose index is known to be false is not mounted; the error wraps [ErrFalseIndex].
func (n *Node) Mount(ctx context.Context, req MountRequest) (*Mount, error) {
	image, err := n.Find(ctx, req.Image, block.Digest{}, req.Platform)
	if err != nil {
		return nil, err
	}
	if err := n.CheckIndex(image, len(image.Layers)); err != nil {
		return nil, err
	}
	ref, err := n.cfg.Registry.ParseReference(image.Name)
	if err != nil {
		return nil, err
	}
	indexed := make(chan bool, 1)
	n.startBundle(ctx, ref.Context(), image, indexed)
	m, err := n.mountImage(ctx, image, len(image.Layers), req, n.fetchTraces(ctx, ref.Context(), image))
	indexed <- err == nil
	if err != nil {
		return nil, err
	}
	// The indexes may have been read only now.
	if err := n.CheckIndex(image, len(image.Layers)); err != nil {
		return nil, errors.Join(err, m.Unmount(ctx))
	}
	return m, nil
}

// MountImage mounts the first layers of an image that was found before. Image and
// Platform of the request are not used. It waits for Run.
func (n *Node) MountImage(ctx context.Context, image *Image, layers int, req MountRequest) (*Mount, error) {
	return n.mountImage(ctx, n.withTrustedTraces(image), layers, req, traceFetch{})
}

// mountImage mounts the first layers of an image, whose traces may be on their way.
func (n *Node) mountImage(ctx context.Context, image *Image, layers int, req MountRequest, traces traceFetch) (_ *Mount, err error) {
	defer traces.wait()
	n.keeping.RLock()
	defer n.keeping.RUnlock()
	began := time.Now()
	if layers < 0 || layers > len(image.Layers) {
		return nil, fmt.Errorf("mounting %s: it has %d layers, not %d", image.Name, len(image.Layers), layers)
	}
	ref, err := n.cfg.Registry.ParseReference(image.Name)
	if err != nil {
		return nil, err
	}
	m := &Mount{node: n, image: image, repo: ref.Context(), req: req}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.releaseLayers())
		}
	}()
	mounted := lazyfs.Image{Name: image.Name, ID: image.id(layers)}
	for _, layer := range image.Layers[:layers] {
		used, err := n.openIndex(ctx, m.repo, layer)
		if err != nil {
			return nil, fmt.Errorf("opening index of layer %s of %s: %w", layer.Digest.Short(), image.Name, err)
		}
		n.registry.Add(m.repo, used.Layer)
		n.judgeKnown(ctx, candidate{image, layer}, used)
		m.layers = append(m.layers, used)
		mounted.Layers = append(mounted.Layers, used.Layer)
	}
	cfg, err := req.mountConfig()
	if err != nil {
		return nil, err
	}
	if !req.again {
		n.noteMounting(image, m, began)
	}
	if cfg.CallerData, err = m.note(); err != nil {
		return nil, err
	}
	if !req.again {
		traces.wait()
		trace, source := n.startTrace(mounted.ID, image, m.sizes())
		bundled, rest, loaded := n.bundleOf(ctx, image, trace)
		mounted.PagesID, cfg.Fill.Trace, cfg.Fill.StartReads, cfg.Fill.WaitFor = bundled, rest.Blocks(), trace.Blocks(), loaded
		cfg.Fill.Predicted = source.isGuess()
		n.foundTraces.noteTrace(source)
		n.cfg.StartRecorder.RecordTrace(startOf(image), string(source), trace.Bytes())
	}
	if m.mount, err = n.fs.Mount(ctx, mounted, req.Target, cfg); err != nil {
		return nil, err
	}
	streams, mountedAt := m.streams(), time.Now()
	if !req.again {
		n.cfg.StartRecorder.RecordPhase(startOf(image), "mount", began, mountedAt)
		n.delays.begin(began, mountedAt, image, streams)
	}
	defer n.proveComplete(streams) // once the mount is known
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mounts[m] = struct{}{}
	if taken := n.replaceLocked(m); !taken && !req.again {
		n.traceRecorders.begin(m, recordedStart{
			id: mounted.ID, manifest: image.Digest, Sample: startup.Sample{ColdLayers: m.mount.ColdLayers()},
		}, streams)
	}
	return m, nil
}

// Target returns where the image is mounted.
func (m *Mount) Target() string { return m.req.Target }

// Unmount unmounts the image. It waits until no process uses it, or ctx ends.
func (m *Mount) Unmount(ctx context.Context) error {
	if err := m.mount.Unmount(ctx); err != nil {
		return err
	}
	m.node.traceRecorders.end(m, true)
	m.node.mu.Lock()
	_, mounted := m.node.mounts[m]
	delete(m.node.mounts, m)
	last := len(m.node.mounts) == 0
	m.node.mu.Unlock()
	if !mounted {
		return nil
	}
	if last {
		defer m.node.idleOnce.Do(func() { close(m.node.idle) })
	}
	err := m.releaseLayers()
	if m.req.Temporary && m.req.Overlay != "" {
		err = errors.Join(err, os.RemoveAll(m.req.Overlay))
	}
	return err
}

// UnmountAll unmounts all images. It waits until no process uses them, or ctx ends.
func (n *Node) UnmountAll(ctx context.Context) error {
	var errs []error
	for _, m := range n.mounted() {
		errs = append(errs, m.Unmount(ctx))
	}
	return errors.Join(errs...)
}

func (n *Node) mounted() []*Mount {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(n.mounts))
}

// unmount unmounts what is mounted on a directory.
func (n *Node) unmount(ctx context.Context, target string) error {
	for _, m := range n.mounted() {
		if m.req.Target == target {
			return m.Unmount(ctx)
		}
	}
	return fmt.Errorf("unmounting %s: this node has nothing mounted there", target)
}

// Trace returns what has been read of the mount since it was made, as long as its start is not
// over, and then what is known of starts of the image.
func (m *Mount) Trace() startup.Trace {
	read, watched := m.node.traceRecorders.read(m)
	if !watched {
		read = m.node.startupTraces.of(m.image.id(len(m.layers)), m.image.Digest)
	}
	return read.Clip(m.sizes())
}

// sizes returns the lengths in bytes of the layer streams that are mounted.
func (m *Mount) sizes() map[block.Digest]int64 {
	sizes := make(map[block.Digest]int64, len(m.layers))
	for _, used := range m.layers {
		sizes[used.StreamID()] = used.StreamSize()
	}
	return sizes
}

// CheckIndex is [Node.CheckIndex] for the whole image.
func (m *Mount) CheckIndex() error { return m.node.CheckIndex(m.image, len(m.image.Layers)) }

// streams returns the layer streams that are mounted.
func (m *Mount) streams() []block.Digest { return streamsOf(m.layers) }

func streamsOf(layers []*openLayer) []block.Digest {
	ids := make([]block.Digest, len(layers))
	for i, used := range layers {
		ids[i] = used.StreamID()
	}
	return ids
}

func (m *Mount) releaseLayers() error {
	var errs []error
	for _, used := range m.layers {
		m.node.registry.Remove(m.repo, used.Layer)
		errs = append(errs, m.node.layerIndexes.release(used))
	}
	m.layers = nil
	return errors.Join(errs...)
}

// Status returns the status of the mount.
func (m *Mount) Status() MountStatus {
	stats := m.mount.Stats()
	status := MountStatus{
		Image: m.image.Name, Digest: m.image.Digest.String(), Target: m.mount.Target(), Direct: stats.Direct,
	}
	if lie, found := m.node.FalseIndex(m.image, len(m.layers)); found {
		status.FalseIndex = lie.Reason
	}
	for _, used := range m.layers {
		status.StreamBytes += used.StreamSize()
		if usage, ok := m.node.disk.LayerUsage(used.StreamID()); ok {
			status.CachedBytes += usage.Bytes
		}
	}
	return status
}
