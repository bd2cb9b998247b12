package mkimage

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

//go:embed app/entrypoint.go.txt
var entrypointSource []byte

//go:embed app/hello.go.txt
var helloSource []byte

// imageGoRoot is where the toolchain lies inside the image.
const imageGoRoot = "usr/local/go"

// GoRoot asks the go command for the toolchain of this machine.
func GoRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	root := strings.TrimSpace(string(out))
	if err != nil || root == "" {
		return "", errors.Join(errors.New("finding the Go toolchain of this machine: put go on the PATH"), err)
	}
	return root, nil
}

// GoToolchain makes an image of the Go toolchain in goroot: five gzip layers,
// about 270 MB uncompressed, one of them with whiteouts. Running it builds a
// program and runs it. The small form, about 200 MB, lacks the sources of the go
// command, which building a program does not read.
func GoToolchain(ctx context.Context, goroot, scratch string, small bool) (v1.Image, error) {
	entrypoint, err := buildEntrypoint(ctx, goroot, scratch)
	if err != nil {
		return nil, err
	}
	tree := func(name string, skip ...string) Tree {
		return Tree{Base: goroot, Path: name, To: imageGoRoot, Skip: skip}
	}
	sources := tree("src")
	if small {
		sources.Skip = []string{"src/cmd"}
	}
	layers := []Layer{
		{
			Dirs:  []string{"app", "dev", "etc", "proc", "root", "sys", "tmp", "usr/local/bin", "var/tmp"},
			Files: map[string][]byte{"etc/passwd": []byte("root:x:0:0:root:/root:/bin/false\n")},
		},
		{Trees: []Tree{tree("VERSION"), tree("go.env"), tree("bin"), tree("pkg")}},
		{Trees: []Tree{sources}},
		{Trees: []Tree{tree("api"), tree("doc"), tree("lib"), tree("misc"), tree("test")}},
		{
			Files: map[string][]byte{
				"app/entrypoint":    entrypoint,
				"app/hello/main.go": helloSource,
				"app/hello/go.mod":  []byte("module example.com/hello\n\ngo 1.21\n"),
			},
			Whiteouts: []string{imageGoRoot + "/test", imageGoRoot + "/api"},
		},
	}
	return Build(ctx, scratch, layers, v1.Config{
		Entrypoint: []string{"/app/entrypoint"},
		WorkingDir: "/app/hello",
		Env: []string{
			"PATH=/" + imageGoRoot + "/bin:/usr/local/bin", "HOME=/root", "GOCACHE=/tmp/cache", "GOPATH=/tmp/gopath",
			"CGO_ENABLED=0", "GOTOOLCHAIN=local", "GOFLAGS=-buildvcs=false", "GOPROXY=off",
		},
	})
}

func buildEntrypoint(ctx context.Context, goroot, scratch string) ([]byte, error) {
	source, binary := filepath.Join(scratch, "entrypoint.go"), filepath.Join(scratch, "entrypoint")
	if err := os.WriteFile(source, entrypointSource, 0o600); err != nil {
		return nil, fmt.Errorf("writing the entry point: %w", err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(goroot, "bin", "go"), "build", "-trimpath", "-buildvcs=false", "-o", binary, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GO111MODULE=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the entry point: %w: %s", err, bytes.TrimSpace(out))
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		return nil, fmt.Errorf("reading the entry point: %w", err)
	}
	return data, nil
}
