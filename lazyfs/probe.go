package lazyfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/kernel"
)

// probeTimeout bounds the probe of one backend.
const probeTimeout = 10 * time.Second

// errProbeContent says that a probe mounted an image and read something else from it.
var errProbeContent = errors.New("the mounted file has the wrong content")

// ProbeResult says whether a backend works on this machine.
type ProbeResult struct {
	Backend Backend
	Err     error // why not; nil if it works
}

// Probe tries every backend, in order of preference, by mounting an image of one file
// and reading it. The scratch directory dir is made, and removed at the end; it should be
// on the filesystem that state directories will be on. Probe needs root.
func Probe(ctx context.Context, dir string) []ProbeResult {
	results := make([]ProbeResult, 0, len(Backends()))
	for _, b := range Backends() {
		results = append(results, ProbeResult{Backend: b, Err: probe(ctx, b, dir)})
	}
	return results
}

// choose returns the first backend that works.
func choose(ctx context.Context, dir string) (Backend, error) {
	var errs []error
	for _, b := range Backends() {
		err := probe(ctx, b, dir)
		if err == nil {
			return b, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", b, err))
	}
	return "", fmt.Errorf("no way to mount an image works on this machine: %w", errors.Join(errs...))
}

// probe tries one backend.
func probe(ctx context.Context, b Backend, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "root"), stateMode); err != nil {
		return fmt.Errorf("making scratch space: %w", err)
	}
	image, source, err := probeImage(ctx)
	if err != nil {
		return fmt.Errorf("making an image to try: %w", err)
	}
	state := filepath.Join(dir, "state")
	fs, err := New(Config{StateDir: state, Source: source, Backend: b, ReadTimeout: probeTimeout / 2})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- fs.Run(ctx) }()
	m, err := fs.Mount(ctx, image, filepath.Join(dir, "root"), MountConfig{NoFill: true})
	if err == nil {
		err = errors.Join(readProbe(filepath.Join(dir, "root", "probe")), m.Unmount(ctx))
	}
	cancel()
	return errors.Join(err, <-ended, removeProbe(dir))
}

// removeProbe removes the scratch space, but never follows it into a mount that could
// not be undone.
func removeProbe(dir string) error {
	mounts, err := kernel.Mounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if within(dir, m.Point) {
			return fmt.Errorf("leaving %s alone, which is still mounted", m.Point)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing scratch space: %w", err)
	}
	return nil
}

// readProbe reads the file of the probe with plain system calls, which hold nothing of
// the Go runtime that serving the read needs.
func readProbe(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", path, err)
	}
	defer unix.Close(fd) //nolint:errcheck // read only
	buf := make([]byte, 2*len(probeContent()))
	n, err := unix.Read(fd, buf)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if !bytes.Equal(buf[:n], probeContent()) {
		return errProbeContent
	}
	return nil
}

func probeContent() []byte { return bytes.Repeat([]byte("brisk "), 200) }

// memorySource is a source of the blocks of one small layer stream.
type memorySource struct {
	layer block.Digest
	data  []byte
}

// Fetch implements [block.Source].
func (s *memorySource) Fetch(_ context.Context, req block.Request, sink block.Sink) error {
	for i := range req.Count {
		k := req.Key(i)
		if k.Layer != s.layer || k.Offset() >= int64(len(s.data)) {
			return &block.Error{Source: "memory", Op: "reading", Range: req.Range, Err: block.ErrNotFound}
		}
		if err := sink(k, s.data[k.Offset():min(k.Offset()+block.Size, int64(len(s.data)))]); err != nil {
			return err
		}
	}
	return nil
}

// probeImage makes the image of the probe: one layer with one file.
func probeImage(ctx context.Context) (Image, block.Source, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	content := probeContent()
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "probe", Mode: 0o600, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return Image{}, nil, fmt.Errorf("writing a tar: %w", err)
	}
	built, err := index.Build(ctx, bytes.NewReader(buf.Bytes()), index.BuildConfig{})
	if err != nil {
		return Image{}, nil, err
	}
	layer, err := index.Open(bytes.NewReader(built.Encoded), int64(len(built.Encoded)))
	if err != nil {
		return Image{}, nil, err
	}
	image := Image{Name: "probe", ID: ImageID([]block.Digest{block.Sum(built.Encoded)}), Layers: []*index.Layer{layer}}
	return image, &memorySource{layer: layer.StreamID(), data: buf.Bytes()}, nil
}
