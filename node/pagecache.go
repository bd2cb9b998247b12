package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

// dropPages makes the kernel forget what its page caches have of a block that was found
// corrupt. With the right bytes it reports whether the files of a mount still have others:
// pages that a program has mapped cannot be dropped until it unmaps them or ends.
func (n *Node) dropPages(ctx context.Context, k block.Key, right []byte) (stale bool) {
	// Files of mounts are read anew from there.
	if err := n.fs.DropPages(k.Layer); err != nil {
		n.log.WarnContext(ctx, "page cache may keep corrupt bytes", "block", k.String(), "error", err)
	}
	for _, m := range n.mounted() {
		if ctx.Err() != nil {
			return stale
		}
		if !slices.Contains(m.streams(), k.Layer) {
			continue
		}
		kept, err := m.dropPages(k, right)
		if err != nil {
			n.log.WarnContext(ctx, "page cache may keep corrupt bytes", "block", k.String(), "image", m.image.Name, "error", err)
		}
		stale = stale || kept
	}
	return stale
}

// dropPages is [Node.dropPages] for one mount.
func (m *Mount) dropPages(k block.Key, right []byte) (stale bool, err error) {
	err = m.eachFile(func(f *erofs.Node, layer block.Digest, drop func([]filePart) (bool, error)) error {
		if layer != k.Layer {
			return nil
		}
		parts := partsOf(f, k, right)
		if len(parts) == 0 {
			return nil
		}
		kept, err := drop(parts)
		stale = stale || kept
		return err
	})
	return stale, err
}

// eachFile calls visit with all regular files of the mount and their layer streams, until it fails.
// Drop is [dropFilePages] for the file.
func (m *Mount) eachFile(visit func(f *erofs.Node, layer block.Digest, drop func(parts []filePart) (stale bool, err error)) error) error {
	var layers []*index.Layer
	for _, l := range m.layers {
		layers = append(layers, l.Layer)
	}
	merged, err := m.node.mergedTrees.get(m.mount.ID(), layers)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(m.mount.Root())
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // only read
	return eachFile(merged.Root(), "", func(name string, f *erofs.Node) error {
		return visit(f, layers[f.Layer].StreamID(), func(parts []filePart) (bool, error) { return dropFilePages(root, name, f.Size, parts) })
	})
}

// eachFile calls visit with all regular files below a directory until it fails.
func eachFile(dir *erofs.Node, at string, visit func(name string, f *erofs.Node) error) error {
	for _, child := range dir.Children() {
		name := path.Join(at, child.Name)
		var err error
		switch {
		case child.Node.IsDir():
			err = eachFile(child.Node, name, visit)
		case child.Node.Type == index.TypeReg:
			err = visit(name, child.Node)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// filePart is a part of a file and its content, nil if that is not known.
type filePart struct {
	off  int64
	want []byte
}

// partsOf returns the parts of a file that are in a block with the given content.
func partsOf(f *erofs.Node, k block.Key, content []byte) (parts []filePart) {
	for _, s := range f.Segments {
		first, end := max(s.StreamOffset, k.Offset()), min(s.StreamOffset+s.Length, k.Offset()+block.Size)
		if first >= end {
			continue
		}
		part := filePart{off: s.FileOffset + first - s.StreamOffset}
		if content != nil {
			part.want = content[first-k.Offset() : end-k.Offset()]
		}
		parts = append(parts, part)
	}
	return parts
}

// openFile opens a file of a mount without waiting for a device, and without following a link.
func openFile(root *os.Root, name string) (*os.File, error) {
	return root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
}

// dropFilePages drops the pages of a file and reports whether parts that are known are still
// other than they should be.
func dropFilePages(root *os.Root, name string, size int64, parts []filePart) (stale bool, err error) {
	file, err := openFile(root, name)
	if err != nil {
		return false, err
	}
	defer file.Close() //nolint:errcheck // only read
	// A mount that another version has made may show something else there.
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() != size {
		return false, err
	}
	// The whole file: pages at its ends, and large folios, are kept if only a part of them
	// is to go.
	if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return false, err
	}
	// Of pages beside the parts nothing is to be fetched.
	if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
		return false, err
	}
	for _, part := range parts {
		got := make([]byte, len(part.want))
		// What cannot be read is not in the page cache.
		if n, err := file.ReadAt(got, part.off); err != nil && !errors.Is(err, io.EOF) || n < len(got) {
			continue
		}
		stale = stale || !bytes.Equal(got, part.want)
	}
	return stale, nil
}
