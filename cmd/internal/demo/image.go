package demo

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

//go:embed app/entrypoint.go.txt
var entrypointSource []byte

//go:embed app/hello.go.txt
var helloSource []byte

// goRoot is where the toolchain lies inside the image.
const goRoot = "usr/local/go"

// layerSpec is one layer of the demo image: trees of the machine's Go toolchain,
// files of our own, and whiteouts.
type layerSpec struct {
	trees     []string          // paths relative to GOROOT
	dirs      []string          // empty directories
	files     map[string][]byte // path to content
	whiteouts []string          // paths that lower layers have and the image must not
}

// BuildImage makes the demo's image from the machine's own Go toolchain: five
// gzip layers, about 270 MB uncompressed, one of them with whiteouts. Running it
// builds a program and runs it. Layer tars are written to scratch, which must
// outlive the image. goroot is the toolchain to use.
func BuildImage(ctx context.Context, goroot, scratch string) (v1.Image, error) {
	entrypoint, err := buildEntrypoint(ctx, goroot, scratch)
	if err != nil {
		return nil, err
	}
	specs := []layerSpec{
		{
			dirs:  []string{"app", "dev", "etc", "proc", "root", "sys", "tmp", "usr/local/bin", "var/tmp"},
			files: map[string][]byte{"etc/passwd": []byte("root:x:0:0:root:/root:/bin/false\n")},
		},
		{trees: []string{"VERSION", "go.env", "bin", "pkg"}},
		{trees: []string{"src"}},
		{trees: []string{"api", "doc", "lib", "misc", "test"}},
		{
			files: map[string][]byte{
				"app/entrypoint":    entrypoint,
				"app/hello/main.go": helloSource,
				"app/hello/go.mod":  []byte("module example.com/hello\n\ngo 1.21\n"),
			},
			whiteouts: []string{goRoot + "/test", goRoot + "/api"},
		},
	}
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	for i, spec := range specs {
		file := filepath.Join(scratch, fmt.Sprintf("layer%d.tar", i))
		if err := writeLayer(ctx, file, goroot, spec); err != nil {
			return nil, fmt.Errorf("writing layer %d of the demo image: %w", i, err)
		}
		layer, err := tarball.LayerFromFile(file, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, fmt.Errorf("compressing layer %d of the demo image: %w", i, err)
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			return nil, fmt.Errorf("adding layer %d to the demo image: %w", i, err)
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading configuration of the demo image: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = runtime.GOOS, runtime.GOARCH
	config.Config.Entrypoint = []string{"/app/entrypoint"}
	config.Config.WorkingDir = "/app/hello"
	config.Config.Env = []string{
		"PATH=/" + goRoot + "/bin:/usr/local/bin", "HOME=/root", "GOCACHE=/tmp/cache", "GOPATH=/tmp/gopath",
		"CGO_ENABLED=0", "GOTOOLCHAIN=local", "GOFLAGS=-buildvcs=false", "GOPROXY=off",
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, fmt.Errorf("setting configuration of the demo image: %w", err)
	}
	return image, nil
}

// GoRoot asks the go command for the toolchain of this machine.
func GoRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	root := strings.TrimSpace(string(out))
	if err != nil || root == "" {
		return "", errors.Join(errors.New(
			"finding the Go toolchain the demo image is made of; put go on the PATH or name an image with --image"), err)
	}
	return root, nil
}

func buildEntrypoint(ctx context.Context, goroot, scratch string) ([]byte, error) {
	source, binary := filepath.Join(scratch, "entrypoint.go"), filepath.Join(scratch, "entrypoint")
	if err := os.WriteFile(source, entrypointSource, 0o600); err != nil {
		return nil, fmt.Errorf("writing the entry point of the demo image: %w", err)
	}

	cmd := exec.CommandContext(ctx, filepath.Join(goroot, "bin", "go"), "build", "-trimpath", "-buildvcs=false", "-o", binary, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GO111MODULE=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the entry point of the demo image: %w: %s", err, bytes.TrimSpace(out))
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		return nil, fmt.Errorf("reading the entry point of the demo image: %w", err)
	}
	return data, nil
}

func writeLayer(ctx context.Context, file, goroot string, spec layerSpec) (err error) {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := &layerWriter{tar: tar.NewWriter(out), dirs: map[string]bool{".": true}}
	for _, dir := range spec.dirs {
		if err := w.dir(dir); err != nil {
			return err
		}
	}
	for _, tree := range spec.trees {
		if err := w.tree(ctx, goroot, tree); err != nil {
			return err
		}
	}
	names := make([]string, 0, len(spec.files))
	for name := range spec.files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := w.file(name, 0o755, bytes.NewReader(spec.files[name]), int64(len(spec.files[name]))); err != nil {
			return err
		}
	}
	for _, name := range spec.whiteouts {
		if err := w.file(path.Join(path.Dir(name), ".wh."+path.Base(name)), 0o644, nil, 0); err != nil {
			return err
		}
	}
	return w.tar.Close()
}

// layerWriter writes the members of one layer, each with its parents before it.
// Owners and times are fixed, so the same toolchain makes the same image.
type layerWriter struct {
	tar  *tar.Writer
	dirs map[string]bool
}

func layerTime() time.Time { return time.Unix(1_700_000_000, 0) }

func (w *layerWriter) dir(name string) error {
	if w.dirs[name] {
		return nil
	}
	if err := w.dir(path.Dir(name)); err != nil {
		return err
	}
	w.dirs[name] = true
	return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: layerTime()})
}

func (w *layerWriter) file(name string, mode fs.FileMode, content io.Reader, size int64) error {
	if err := w.dir(path.Dir(name)); err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(mode.Perm()), Size: size, ModTime: layerTime()}
	if err := w.tar.WriteHeader(header); err != nil {
		return err
	}
	if content == nil {
		return nil
	}
	_, err := io.Copy(w.tar, content)
	return err
}

// tree adds a file or a whole directory of the toolchain. Parts that this
// toolchain does not have are left out.
func (w *layerWriter) tree(ctx context.Context, goroot, rel string) error {
	root, err := os.OpenRoot(goroot)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // only read from
	if _, err := root.Lstat(rel); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fs.WalkDir(root.FS(), rel, func(name string, entry fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		target := path.Join(goRoot, name)
		switch {
		case entry.IsDir():
			return w.dir(target)
		case info.Mode()&fs.ModeSymlink != 0:
			link, err := root.Readlink(name)
			if err != nil {
				return err
			}
			return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: target, Linkname: link, ModTime: layerTime()})
		case info.Mode().IsRegular():
			file, err := root.Open(name)
			if err != nil {
				return err
			}
			defer file.Close() //nolint:errcheck // only read from
			return w.file(target, info.Mode(), file, info.Size())
		default:
			return nil
		}
	})
}
