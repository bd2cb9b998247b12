package lazyfs

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/fusefs"
	"github.com/brisk-project/brisk/lazyfs/kernel"
	"github.com/brisk-project/brisk/lazyfs/stream"
	"github.com/brisk-project/brisk/lazyfs/tree"
)

// metadataBlock is the block of metadata images in bytes: nothing is addressed in
// smaller units.
const metadataBlock = 512

// metadataSuffix is what the names of metadata images end with.
const metadataSuffix = ".erofs"

// MetadataPath returns where the metadata of an image is kept, once it has been mounted.
func (fs *FS) MetadataPath(id block.Digest) string { return fs.metadataPath(id, erofs.MergeVersion) }

// metadataPath returns where metadata of that version of the merge is kept.
func (fs *FS) metadataPath(id block.Digest, version int) string {
	name := id.Hex() + "." + strconv.Itoa(version)
	if version == firstMerge {
		name = id.Hex()
	}
	return filepath.Join(fs.cfg.StateDir, "rootfs", name+metadataSuffix)
}

// mountRoot mounts the read-only root of the image on a directory, and records it: a
// process that is killed at any moment leaves nothing that the next one could take
// for whole, nor anything that it would not find.
func (m *Mount) mountRoot(ctx context.Context, image Image, dir string, cfg MountConfig) error {
	m.root = dir
	if m.backend == Tree {
		if err := m.mountTree(ctx, image, dir); err != nil {
			return err
		}
		for i := range m.layers {
			m.layers[i].cold = true // each tree has a page cache of its own
		}
		return m.record(dir, image, cfg)
	}
	metadata, err := m.fs.metadata(image)
	if err != nil {
		return err
	}
	root := kernel.Erofs{Image: metadata, Direct: m.backend == Erofs && m.direct() && m.alignedForDirect()}
	for i := range m.layers {
		path, err := m.device(ctx, &m.layers[i])
		if err != nil {
			return err
		}
		root.Devices = append(root.Devices, path)
	}
	if err := m.record(dir, image, cfg); err != nil {
		return err
	}
	window := readAheadWindow
	switch {
	case m.fs.cfg.ExactReads:
		window = exactReadAhead
	case m.fs.hasPages(image):
		window = cmp.Or(m.fs.cfg.PagesReadAhead, pagesReadAhead)
	}
	err = m.fs.flat.open(window, func() error { return m.mountDevices(root, dir) })
	if err != nil {
		return err
	}
	m.undoMount(dir)
	return nil
}

// mountDevices mounts the root once the files it consists of are there.
func (m *Mount) mountDevices(root kernel.Erofs, dir string) error {
	if m.backend == Loop {
		release, err := attachLoops(&root, m.layers)
		defer release()
		if err != nil {
			return err
		}
	}
	return kernel.MountErofs(root, dir)
}

// device returns the file that holds a layer stream for the kernel.
func (m *Mount) device(ctx context.Context, l *mountedLayer) (string, error) {
	if l.plain != "" {
		return l.plain, nil
	}
	path, session, err := m.fs.flat.add(ctx, *l)
	if err != nil {
		return "", err
	}
	m.session = session
	m.undoFlat(*l)
	// Layer files are those of all mounts, and so are their pages.
	pages, err := kernel.CachedPages(path)
	l.cold = err == nil && pages == 0
	return path, nil
}

func (m *Mount) undoFlat(l mountedLayer) {
	m.undo.push(func(ctx context.Context, detach bool) error { return m.fs.flat.remove(ctx, l.key.file(), detach) })
}

// alignedForDirect reports whether the files of all layers can be read at every block
// of the metadata past the page cache, so that their data is in memory only once.
func (m *Mount) alignedForDirect() bool {
	for _, l := range m.layers {
		align, err := kernel.DirectAlign(l.plain)
		if err != nil || align == 0 || align > metadataBlock {
			return false
		}
	}
	return len(m.layers) > 0
}

// attachLoops puts the files of a root behind loop devices. They last as long as
// something holds them: until release, and until the root is unmounted.
func attachLoops(root *kernel.Erofs, layers []mountedLayer) (release func(), err error) {
	var loops []*kernel.Loop
	release = func() {
		for _, l := range loops {
			_ = l.Close() //nolint:errcheck // a device that is in use stays, one that is not goes
		}
	}
	attach := func(path *string, direct bool) error {
		l, err := kernel.AttachLoop(*path, direct)
		if err != nil {
			return err
		}
		loops = append(loops, l)
		*path = l.Path()
		return nil
	}
	if err := attach(&root.Image, false); err != nil {
		return release, err
	}
	for i := range root.Devices {
		if err := attach(&root.Devices[i], layers[i].plain != ""); err != nil {
			return release, err
		}
	}
	return release, nil
}

// metadata returns the path of the metadata image of a chain, and builds it if this
// is the first mount of the chain.
func (fs *FS) metadata(image Image) (string, error) {
	path := fs.MetadataPath(image.ID)
	fs.meta.Lock()
	defer fs.meta.Unlock()
	switch _, err := os.Stat(path); {
	case err == nil:
		return path, nil
	case !errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("looking for rootfs metadata: %w", err)
	}
	defer fs.reader.Urgent()() // a start waits for it
	began := time.Now()
	merged, err := erofs.Merge(image.Layers)
	if err != nil {
		return "", fmt.Errorf("merging layers: %w", err)
	}
	if err := writeMetadata(merged, path); err != nil {
		return "", fmt.Errorf("writing rootfs metadata: %w", err)
	}
	if fs.cfg.OnMetadata != nil {
		fs.cfg.OnMetadata(image, began)
	}
	return path, nil
}

// writeMetadata writes a metadata image so that it is there in full or not at all,
// even if the power fails.
func writeMetadata(t *erofs.Tree, path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), "*.tmp")
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	_, err = erofs.Build(w, t, erofs.Config{})
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// mountTree mounts the root as a FUSE filesystem.
func (m *Mount) mountTree(ctx context.Context, image Image, dir string) error {
	merged, err := erofs.Merge(image.Layers)
	if err != nil {
		return fmt.Errorf("merging layers: %w", err)
	}
	fs, reads := m.tree(merged)
	if m.server, err = fusefs.Mount(fs, reads, dir, m.treeOptions()); err != nil {
		return err
	}
	refuseFlush(merged, dir)
	m.session = m.fs.sessions.begin(ctx, m.server, dir)
	m.undoTree()
	return nil
}

// tree makes the FUSE filesystem of the merged layers.
func (m *Mount) tree(merged *erofs.Tree) (*tree.FS, *fusefs.Reads) {
	streams := make([]*stream.Layer, 0, len(m.layers))
	for _, l := range m.layers {
		streams = append(streams, l.stream)
	}
	reads := fusefs.NewReads()
	return tree.New(merged, streams, reads, &m.fs.ops), reads
}

// refuseFlush closes some file of a tree, which is when the kernel learns that files need
// no flush. If a program were the first to close one while no process serves the tree,
// it would wait, and so would whoever it is starting another program for.
func refuseFlush(merged *erofs.Tree, dir string) {
	path, ok := someFile(merged.Root(), dir)
	if !ok {
		return
	}
	if fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err == nil {
		closeFD(fd)
	}
}

// someFile returns the path of a regular file below a directory, false if there is none.
func someFile(dir *erofs.Node, path string) (string, bool) {
	for _, child := range dir.Children() {
		name := filepath.Join(path, child.Name)
		switch {
		case child.Node.Type == index.TypeReg:
			return name, true
		case child.Node.IsDir():
			if found, ok := someFile(child.Node, name); ok {
				return found, true
			}
		}
	}
	return "", false
}

func (m *Mount) treeOptions() fusefs.Options {
	return fusefs.Options{Source: m.fs.cfg.StateDir, ACL: true, ReadAhead: m.fs.cfg.treeWindow(), Logger: m.fs.cfg.Logger}
}

func (m *Mount) undoTree() {
	m.undo.push(func(ctx context.Context, _ bool) error { return m.fs.sessions.end(ctx, m.session) })
	m.undo.push(m.server.Unmount)
}
