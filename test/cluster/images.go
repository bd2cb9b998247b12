package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

// module is ours.
const module = "github.com/brisk-project/brisk/"

// pauseImage is what holds the namespaces of pods.
const pauseImage = Registry + "/pause:1"

// Program builds a program of this module, such as "cmd/brisk-node", as a static one
// and returns its path.
func (c *Cluster) Program(pkg string) string {
	c.tb.Helper()
	path, err := c.build(pkg)
	if err != nil {
		c.tb.Fatal(err)
	}
	return path
}

func (c *Cluster) build(pkg string) (string, error) {
	_, self, _, ok := runtime.Caller(0)
	if !ok {
		return "", fmt.Errorf("building %s: no caller", pkg)
	}
	path := filepath.Join(filepath.Dir(c.dir), "bin", filepath.Base(pkg))
	cmd := exec.CommandContext(c.tb.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, module+pkg)
	cmd.Dir = filepath.Dir(self)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

// File is a file of an image, with a path without a leading slash.
type File struct {
	Path string
	Mode int64
	Data []byte
}

// Push puts an image of layers of files into the registry, under a name such as
// "app:1", and returns its reference. The image runs entrypoint.
func (c *Cluster) Push(image string, entrypoint []string, layers ...[]File) string {
	c.tb.Helper()
	if err := c.push(image, entrypoint, layers...); err != nil {
		c.tb.Fatal(err)
	}
	return Registry + "/" + image
}

// PushProgram puts an image with one of our programs into the registry.
func (c *Cluster) PushProgram(image, pkg string) string {
	c.tb.Helper()
	data, err := os.ReadFile(c.Program(pkg))
	if err != nil {
		c.tb.Fatal(err)
	}
	base := filepath.Base(pkg)
	return c.Push(image, []string{"/" + base}, []File{{Path: base, Mode: 0o755, Data: data}})
}

func (c *Cluster) push(image string, entrypoint []string, layers ...[]File) error {
	ref, err := name.ParseReference(Registry+"/"+image, name.Insecure)
	if err != nil {
		return fmt.Errorf("pushing %s: %w", image, err)
	}
	built := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	config := &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, Config: v1.Config{Entrypoint: entrypoint, Env: []string{"PATH=/bin:/"}}}
	config.RootFS.Type = "layers"
	if built, err = mutate.ConfigFile(built, config); err != nil {
		return fmt.Errorf("pushing %s: %w", image, err)
	}
	for _, files := range layers {
		content, err := pack(files)
		if err != nil {
			return fmt.Errorf("pushing %s: %w", image, err)
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
			tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return fmt.Errorf("pushing %s: %w", image, err)
		}
		if built, err = mutate.AppendLayers(built, layer); err != nil {
			return fmt.Errorf("pushing %s: %w", image, err)
		}
	}
	ctx, cancel := context.WithTimeout(c.tb.Context(), Timeout)
	defer cancel()
	if err := remote.Write(ref, built, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("pushing %s: %w", image, err)
	}
	return nil
}

// Copy puts an image of the registry there again, under a name in another repository,
// without what refers to it, and returns its reference.
func (c *Cluster) Copy(from, to string) string {
	c.tb.Helper()
	if err := c.duplicate(from, to); err != nil {
		c.tb.Fatalf("copying %s to %s: %v", from, to, err)
	}
	return Registry + "/" + to
}

func (c *Cluster) duplicate(from, to string) error {
	source, err := name.ParseReference(Registry+"/"+from, name.Insecure)
	if err != nil {
		return err
	}
	target, err := name.ParseReference(Registry+"/"+to, name.Insecure)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.tb.Context(), Timeout)
	defer cancel()
	image, err := remote.Image(source, remote.WithContext(ctx))
	if err != nil {
		return err
	}
	return remote.Write(target, image, remote.WithContext(ctx))
}

// pack makes a compressed tar. It is compressed here, once: who makes a layer of it reads it
// several times.
func pack(files []File) ([]byte, error) {
	var buf bytes.Buffer
	compressed, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(compressed)
	made := make(map[string]bool)
	for _, f := range files {
		if dir := filepath.Dir(f.Path); dir != "." && !made[dir] {
			made[dir] = true
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
				return nil, err
			}
		}
		if err := w.WriteHeader(&tar.Header{Name: f.Path, Mode: f.Mode, Size: int64(len(f.Data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, err
		}
	}
	err = errors.Join(w.Close(), compressed.Close())
	return buf.Bytes(), err
}

func (c *Cluster) pushPause() error {
	path, err := c.build("test/cluster/pause")
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading a program: %w", err)
	}
	return c.push("pause:1", []string{"/pause"}, []File{{Path: "pause", Mode: 0o755, Data: data}})
}

// startRegistry starts the registry and waits until it answers.
func (c *Cluster) startRegistry() error {
	config := filepath.Join(c.dir, "registry.yaml")
	content := fmt.Sprintf("version: 0.1\nlog: {level: warn}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: %q}\n",
		filepath.Join(c.dir, "registry"), Registry)
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		return fmt.Errorf("configuring the registry: %w", err)
	}
	var err error
	if c.registry, err = c.start("registry", "serve", config); err != nil {
		return err
	}
	reg, err := name.NewRegistry(Registry, name.Insecure)
	if err != nil {
		return fmt.Errorf("naming the registry: %w", err)
	}
	c.Await("the registry", Timeout, func(ctx context.Context) (bool, error) {
		return ping(ctx, reg) == nil, nil
	})
	return nil
}

func ping(ctx context.Context, reg name.Registry) error {
	_, err := remote.Catalog(ctx, reg)
	return err
}

// StopRegistry kills the registry.
func (c *Cluster) StopRegistry() { c.registry.kill() }

// StartRegistry starts the registry that was stopped, with what it had.
func (c *Cluster) StartRegistry() {
	c.tb.Helper()
	if err := c.startRegistry(); err != nil {
		c.tb.Fatal(err)
	}
}
