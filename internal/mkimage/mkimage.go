// Package mkimage makes real images out of what a machine has: its own Go
// toolchain, or packages from npm. The demo and the benchmarks use them, because
// what matters to a lazily loaded image (how many files, how large, which of
// them a program reads) cannot be made up.
//
// The same input makes the same image: owners and times are fixed.
package mkimage

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Layer is the content of one layer.
type Layer struct {
	Trees     []Tree
	Dirs      []string          // empty directories
	Files     map[string][]byte // path to content; all are executable
	Whiteouts []string          // paths that lower layers have and the image must not
}

// Tree is a file or directory of the machine to copy into a layer. It is left out
// when it does not exist.
type Tree struct {
	Base string   // a directory of the machine
	Path string   // what to copy, relative to Base
	To   string   // the directory of the image that stands for Base
	Skip []string // paths relative to Base to leave out, with all below them
}

// Build makes an image of gzip layers, bottom first. The layers' tars are written
// to the directory scratch, which must outlive the image.
func Build(ctx context.Context, scratch string, layers []Layer, config v1.Config) (v1.Image, error) {
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	for i, spec := range layers {
		file := filepath.Join(scratch, fmt.Sprintf("layer%d.tar", i))
		if err := writeLayer(ctx, file, spec); err != nil {
			return nil, fmt.Errorf("writing layer %d: %w", i, err)
		}
		layer, err := tarball.LayerFromFile(file, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, fmt.Errorf("compressing layer %d: %w", i, err)
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			return nil, fmt.Errorf("adding layer %d: %w", i, err)
		}
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading image configuration: %w", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = runtime.GOOS, runtime.GOARCH, config
	if image, err = mutate.ConfigFile(image, file); err != nil {
		return nil, fmt.Errorf("setting image configuration: %w", err)
	}
	return image, nil
}

func writeLayer(ctx context.Context, file string, spec Layer) (err error) {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := &layerWriter{tar: tar.NewWriter(out), dirs: map[string]bool{".": true}}
	for _, dir := range spec.Dirs {
		if err := w.dir(dir); err != nil {
			return err
		}
	}
	for _, tree := range spec.Trees {
		if err := w.tree(ctx, tree); err != nil {
			return err
		}
	}
	names := make([]string, 0, len(spec.Files))
	for name := range spec.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := w.file(name, 0o755, bytes.NewReader(spec.Files[name]), int64(len(spec.Files[name]))); err != nil {
			return err
		}
	}
	for _, name := range spec.Whiteouts {
		if err := w.file(path.Join(path.Dir(name), ".wh."+path.Base(name)), 0o644, bytes.NewReader(nil), 0); err != nil {
			return err
		}
	}
	return w.tar.Close()
}

// layerWriter writes the members of one layer, each with its parents before it.
type layerWriter struct {
	tar  *tar.Writer
	dirs map[string]bool
}

func memberTime() time.Time { return time.Unix(1_700_000_000, 0) }

func (w *layerWriter) dir(name string) error {
	if w.dirs[name] {
		return nil
	}
	if err := w.dir(path.Dir(name)); err != nil {
		return err
	}
	w.dirs[name] = true
	return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: memberTime()})
}

func (w *layerWriter) file(name string, mode fs.FileMode, content io.Reader, size int64) error {
	if err := w.dir(path.Dir(name)); err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(mode.Perm()), Size: size, ModTime: memberTime()}
	if err := w.tar.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(w.tar, content)
	return err
}

func (w *layerWriter) tree(ctx context.Context, tree Tree) (err error) {
	root, err := os.OpenRoot(tree.Base)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if _, err := root.Lstat(tree.Path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fs.WalkDir(root.FS(), tree.Path, func(name string, entry fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if slices.Contains(tree.Skip, name) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return w.member(root, name, path.Join(tree.To, name), entry)
	})
}

// member adds one file of a tree. Sockets, pipes and devices are left out.
func (w *layerWriter) member(root *os.Root, name, target string, entry fs.DirEntry) (err error) {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	switch {
	case entry.IsDir():
		return w.dir(target)
	case info.Mode()&fs.ModeSymlink != 0:
		link, err := root.Readlink(name)
		if err != nil {
			return err
		}
		if err := w.dir(path.Dir(target)); err != nil {
			return err
		}
		return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: target, Linkname: link, Mode: 0o777, ModTime: memberTime()})
	case info.Mode().IsRegular():
		file, err := root.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(w.file(target, info.Mode(), file, info.Size()), file.Close())
	default:
		return nil
	}
}
