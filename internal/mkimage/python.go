package mkimage

import (
	"context"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// PythonLibraries makes an image of Python with numpy and scipy on a small Debian, in three gzip layers, about 0.35 GB
// uncompressed: mostly shared libraries, and many small sources. It is made of packages of the
// Debian archive that apt of this machine is set up to reach, for amd64.
func PythonLibraries(ctx context.Context, scratch string) (v1.Image, error) {
	packages, err := debianPackages(ctx, scratch, append(debianBase(), "python3-scipy", "libopenblas0-pthread")...)
	if err != nil {
		return nil, err
	}
	root := filepath.Join(scratch, "root")
	if err := unpackDebian(ctx, root, packages); err != nil {
		return nil, err
	}
	tree := func(name string, skip ...string) Layer {
		return Layer{Trees: []Tree{{Base: root, Path: name, Skip: skip}}}
	}
	return Build(ctx, scratch, []Layer{
		tree(".", "usr/share/doc", pythonPackages, debianLibraries), tree(debianLibraries), tree(pythonPackages),
	}, v1.Config{
		Entrypoint: []string{"/usr/bin/python3"},
		WorkingDir: "/",
		Env:        []string{"PATH=/usr/sbin:/usr/bin", "LC_ALL=C.UTF-8"},
	})
}
