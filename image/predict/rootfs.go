package predict

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
)

const (
	// maxLinks is how many symbolic links a path may lead through, as in Linux.
	maxLinks = 40
	// maxPath is the longest path in bytes, as in Linux.
	maxPath = 4096
)

// rootfs is the root filesystem of an image.
type rootfs struct {
	ctx    context.Context //nolint:containedctx // of the one call of Run that the rootfs is made for
	tree   *erofs.Tree
	layers []*index.Layer
	stream Reader
	spent  bool          // the reader has read as much as it may
	failed map[int]error // by layer: it cannot be read
}

// place is a file or directory with its path, in which no component is a symbolic link.
type place struct {
	node *erofs.Node
	path string
}

// dir returns the path of the directory that the place is in.
func (p place) dir() string { return path.Dir(p.path) }

// resolve returns what a path leads to, and whether there is something. A path that does not begin
// with a slash begins at the root.
func (r *rootfs) resolve(name string) (place, bool) {
	if len(name) > maxPath {
		return place{}, false
	}
	nodes, names := []*erofs.Node{r.tree.Root()}, []string{""}
	left, links := strings.Split(name, "/"), 0
	for len(left) > 0 {
		component := left[0]
		left = left[1:]
		switch component {
		case "", ".":
			continue
		case "..":
			nodes, names = nodes[:max(1, len(nodes)-1)], names[:max(1, len(names)-1)]
			continue
		}
		next, ok := nodes[len(nodes)-1].Lookup(component)
		if !ok {
			return place{}, false
		}
		if next.Type != index.TypeSymlink {
			nodes, names = append(nodes, next), append(names, component)
			continue
		}
		if links++; links > maxLinks || len(next.Target) > maxPath {
			return place{}, false
		}
		if path.IsAbs(next.Target) {
			nodes, names = nodes[:1], names[:1]
		}
		left = append(strings.Split(next.Target, "/"), left...)
	}
	return place{nodes[len(nodes)-1], "/" + strings.Join(names[1:], "/")}, true
}

// file returns the regular file that a path leads to.
func (r *rootfs) file(name string) (place, bool) {
	found, ok := r.resolve(name)
	return found, ok && found.node.Type == index.TypeReg
}

// readAt fills b with the bytes of a file from off on.
func (r *rootfs) readAt(f *erofs.Node, b []byte, off int64) error {
	if off < 0 || off > f.Size || int64(len(b)) > f.Size-off {
		return fmt.Errorf("bytes %d-%d of a file of %d bytes", off, off+int64(len(b)), f.Size)
	}
	if r.spent {
		return ErrBudget
	}
	if err := r.failed[f.Layer]; err != nil {
		return err
	}
	clear(b)
	end := off + int64(len(b))
	for _, s := range f.Segments {
		from, to := max(off, s.FileOffset), min(end, s.FileOffset+s.Length)
		if from >= to {
			continue
		}
		err := r.stream.ReadStream(r.ctx, r.layers[f.Layer].StreamID(), b[from-off:to-off], s.StreamOffset+from-s.FileOffset)
		switch {
		case errors.Is(err, ErrBudget):
			r.spent = true
			return err
		case err != nil:
			r.failed[f.Layer] = err // to try again takes time, and would rarely help
			return err
		}
	}
	for _, l := range f.Literals {
		if from, to := max(off, l.FileOffset), min(end, l.FileOffset+int64(len(l.Data))); from < to {
			copy(b[from-off:to-off], l.Data[from-l.FileOffset:])
		}
	}
	return nil
}

// content returns a whole file of at most limit bytes.
func (r *rootfs) content(f *erofs.Node, limit int64) ([]byte, error) {
	if f.Size > limit {
		return nil, fmt.Errorf("%d bytes, the limit is %d", f.Size, limit)
	}
	b := make([]byte, f.Size)
	return b, r.readAt(f, b, 0)
}

// head returns the first bytes of a file, at most n.
func (r *rootfs) head(f *erofs.Node, n int64) ([]byte, error) {
	b := make([]byte, min(n, f.Size))
	return b, r.readAt(f, b, 0)
}
