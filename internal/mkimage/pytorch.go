package mkimage

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

//go:embed app/serve.py.txt
var serveSource []byte

// PyTorchPort is where the program of [PyTorch] answers HTTP requests, and PyTorchAnswer
// what it answers.
const (
	PyTorchPort   = 8765
	PyTorchAnswer = "torch: 3.0\n"
)

const (
	pythonPackages = "usr/lib/python3/dist-packages"
	// debianLibraries is where Debian has shared libraries on amd64.
	debianLibraries = "usr/lib/x86_64-linux-gnu"
)

// PyTorch makes an image of a Python service that imports torch, in five gzip layers,
// more than 1 GB compressed and 3.5 GB uncompressed, about 55,000 files: torch and what
// usually comes with it, and data that the start does not read. It is made of packages of
// the Debian archive that apt of this machine is set up to reach, for amd64.
func PyTorch(ctx context.Context, scratch string) (v1.Image, error) {
	packages, err := debianPackages(ctx, scratch, append(debianBase(), "python3-torch", "python3-torchvision",
		"python3-pandas", "python3-scipy", "python3-sklearn", "python3-matplotlib")...)
	if err != nil {
		return nil, err
	}
	root, data := filepath.Join(scratch, "root"), filepath.Join(scratch, "data")
	if err := unpackDebian(ctx, root, packages); err != nil {
		return nil, err
	}
	if err := setUpPython(ctx, root); err != nil {
		return nil, err
	}
	// Many data files: large, hardly compressible, and of no use to the start.
	if err := os.Mkdir(data, 0o750); err != nil {
		return nil, fmt.Errorf("making a directory for data: %w", err)
	}
	if err := command(ctx, "bash", "-c", `cd "$1" && apt-get download -o APT::Sandbox::User=root texlive-fonts-extra && dpkg-deb -x *.deb root`, "data", data); err != nil {
		return nil, err
	}
	tree := func(name string, skip ...string) Layer {
		return Layer{Trees: []Tree{{Base: root, Path: name, Skip: skip}}}
	}
	return Build(ctx, scratch, []Layer{
		tree(".", "usr/share/doc", pythonPackages, debianLibraries),
		tree(debianLibraries),
		{Trees: []Tree{{Base: filepath.Join(data, "root"), Path: "usr/share", To: "", Skip: []string{"usr/share/doc"}}}},
		tree(pythonPackages),
		{Files: map[string][]byte{"app/serve.py": serveSource}},
	}, v1.Config{
		Entrypoint: []string{"/usr/bin/python3", "/app/serve.py", strconv.Itoa(PyTorchPort)},
		WorkingDir: "/app",
		Env:        []string{"PATH=/usr/sbin:/usr/bin", "LC_ALL=C.UTF-8"},
	})
}

// setUpPython does what the scripts of the packages would: it chooses libraries, lists
// them for the loader, and compiles the sources.
func setUpPython(ctx context.Context, root string) error {
	for _, name := range []string{"libblas.so.3", "liblapack.so.3", "libopenblas.so.0"} {
		if err := os.Symlink("openblas-pthread/"+name, filepath.Join(root, debianLibraries, name)); err != nil {
			return fmt.Errorf("choosing a library of linear algebra: %w", err)
		}
	}
	if err := command(ctx, "chroot", root, "/sbin/ldconfig"); err != nil {
		return err
	}
	// The times of sources in the image are not those of the files here.
	return command(ctx, "chroot", root, "/usr/bin/python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
		"/usr/lib/python3.11", "/"+pythonPackages)
}
