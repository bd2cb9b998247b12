package predict

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

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
	root   *node
	layers []*index.Layer
	stream Reader
	spent  bool            // the reader has read as much as it may
	failed map[int32]error // by layer: it cannot be read
}

// place is a file or directory with its path, in which no component is a symbolic link.
type place struct {
	node *node
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
	nodes, names := []*node{r.root}, []string{""}
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
		next, ok := nodes[len(nodes)-1].lookup(component)
		if !ok {
			return place{}, false
		}
		if next.kind != index.TypeSymlink {
			nodes, names = append(nodes, next), append(names, component)
			continue
		}
		if links++; links > maxLinks || len(next.target()) > maxPath {
			return place{}, false
		}
		if path.IsAbs(next.target()) {
			nodes, names = nodes[:1], names[:1]
		}
		left = append(strings.Split(next.target(), "/"), left...)
	}
	return place{nodes[len(nodes)-1], "/" + strings.Join(names[1:], "/")}, true
}

// file returns the regular file that a path leads to.
func (r *rootfs) file(name string) (place, bool) {
	found, ok := r.resolve(name)
	return found, ok && found.node.kind == index.TypeReg
}

// readAt fills b with the bytes of a file from off on.
func (r *rootfs) readAt(f *node, b []byte, off int64) error {
	if off < 0 || off > f.size || int64(len(b)) > f.size-off {
		return fmt.Errorf("bytes %d-%d of a file of %d bytes", off, off+int64(len(b)), f.size)
	}
	if r.spent {
		return ErrBudget
	}
	if err := r.failed[f.layer]; err != nil {
		return err
	}
	clear(b)
	end := off + int64(len(b))
	for _, s := range f.segments() {
		from, to := max(off, s.FileOffset), min(end, s.FileOffset+s.Length)
		if from >= to {
			continue
		}
		err := r.stream.ReadStream(r.ctx, r.layers[f.layer].StreamID(), b[from-off:to-off], s.StreamOffset+from-s.FileOffset)
		switch {
		case errors.Is(err, ErrBudget):
			r.spent = true
			return err
		case err != nil:
			r.failed[f.layer] = err // to try again takes time, and would rarely help
			return err
		}
	}
	for _, l := range f.literals() {
		if from, to := max(off, l.FileOffset), min(end, l.FileOffset+int64(len(l.Data))); from < to {
			copy(b[from-off:to-off], l.Data[from-l.FileOffset:])
		}
	}
	return nil
}

// content returns a whole file of at most limit bytes.
func (r *rootfs) content(f *node, limit int64) ([]byte, error) {
	if f.size > limit {
		return nil, fmt.Errorf("%d bytes, the limit is %d", f.size, limit)
	}
	b := make([]byte, f.size)
	return b, r.readAt(f, b, 0)
}

// head returns the first bytes of a file, at most n.
func (r *rootfs) head(f *node, n int64) ([]byte, error) {
	b := make([]byte, min(n, f.size))
	return b, r.readAt(f, b, 0)
}
