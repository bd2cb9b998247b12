package node

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/startup/files"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs"
)

// warmStep is how much of a file at a time, in bytes, is asked for in the page cache.
const warmStep = block.Size

// CanGraduate reports whether all of the image is on this node, while its mount still asks
// this process for what is read: a new mount would read files of the cache.
func (m *Mount) CanGraduate() bool {
	stats := m.mount.Stats()
	if stats.Direct || stats.Backend == lazyfs.Tree || m.req.Overlay != "" {
		return false
	}
	for _, stream := range m.streams() {
		if !m.node.disk.Complete(stream) {
			return false
		}
	}
	return true
}

// Graduate mounts the image anew, on files of the cache as far as it is complete. Nobody
// may use the mount. What is mounted then is returned: after an error that may be m, or nil.
// The page cache of m is lost; warm reads what it had of the start of the image into that of
// the new mount, until its context ends. It is nil if there is nothing to read.
func (m *Mount) Graduate(ctx context.Context) (next *Mount, warm func(context.Context), err error) {
	cached, err := m.cachedParts(ctx)
	if err != nil {
		m.node.log.DebugContext(ctx, "the page cache of a mount is not kept", "image", m.image.Name, "error", err)
	}
	layers, req := len(m.layers), m.req
	if err := m.Unmount(ctx); err != nil {
		return m, nil, err
	}
	req.again = true
	next, err = m.node.MountImage(ctx, m.image, layers, req)
	if err != nil {
		return nil, nil, fmt.Errorf("mounting %s anew: %w", m.image.Name, err)
	}
	if len(cached) == 0 {
		return next, nil, nil
	}
	return next, func(ctx context.Context) { next.warm(ctx, cached) }, nil
}

// cachedFile is a file of a mount and the parts of it that are in the page cache.
type cachedFile struct {
	name  string
	parts []cachedPart
}

type cachedPart struct{ offset, length int64 }

// cachedParts returns what the page cache has of the files that a start of the image reads.
func (m *Mount) cachedParts(ctx context.Context) ([]cachedFile, error) {
	trace, _ := m.node.startTrace(m.mount.ID(), m.image, m.sizes())
	if len(trace) == 0 {
		return nil, nil
	}
	layers := make([]*index.Layer, len(m.layers))
	for i, l := range m.layers {
		layers[i] = l.Layer
	}
	named, err := files.FileReads(trace, layers)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(m.mount.Root())
	if err != nil {
		return nil, err
	}
	defer root.Close() //nolint:errcheck // only read
	var cached []cachedFile
	for _, f := range named {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if f.Path == "" {
			continue
		}
		parts, err := cachedPartsOf(root, f.Path)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // an upper layer may have removed it
			return nil, err
		}
		if len(parts) > 0 {
			cached = append(cached, cachedFile{f.Path, parts})
		}
	}
	return cached, nil
}

// cachedPartsOf returns the parts of a regular file of which at least half is in the page cache.
func cachedPartsOf(root *os.Root, name string) (parts []cachedPart, err error) {
	file, err := openFile(root, name)
	if errors.Is(err, unix.ELOOP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, err
	}
	page := int64(os.Getpagesize())
	for offset := int64(0); offset < info.Size(); offset += warmStep {
		length := min(warmStep, info.Size()-offset)
		var stat unix.Cachestat_t
		if err := unix.Cachestat(uint(file.Fd()), &unix.CachestatRange{Off: uint64(offset), Len: uint64(length)}, &stat, 0); err != nil {
			return nil, fmt.Errorf("asking for the cached pages of %s: %w", name, err)
		}
		if int64(stat.Cache)*page*2 < length {
			continue
		}
		if last := len(parts) - 1; last >= 0 && parts[last].offset+parts[last].length == offset {
			parts[last].length += length
		} else {
			parts = append(parts, cachedPart{offset, length})
		}
	}
	return parts, nil
}

// warm reads parts of files into the page cache of the mount.
func (m *Mount) warm(ctx context.Context, cached []cachedFile) {
	root, err := os.OpenRoot(m.mount.Root())
	if err != nil {
		m.node.log.DebugContext(ctx, "the page cache of a mount is not read", "image", m.image.Name, "error", err)
		return
	}
	defer root.Close() //nolint:errcheck // only read
	for _, f := range cached {
		if ctx.Err() != nil {
			return
		}
		if err := warmFile(root, f); err != nil {
			m.node.log.DebugContext(ctx, "a file is not read into the page cache", "image", m.image.Name, "file", f.name, "error", err)
		}
	}
}

func warmFile(root *os.Root, f cachedFile) error {
	file, err := openFile(root, f.name)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // only read
	for _, p := range f.parts {
		if err := unix.Fadvise(int(file.Fd()), p.offset, p.length, unix.FADV_WILLNEED); err != nil {
			return err
		}
	}
	return nil
}
