package mkimage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// NodeAppPort is where the program of [NodeApp] answers HTTP requests.
const NodeAppPort = 1880

// appPackages are what the layers of [NodeApp] hold above that of Node.js: an
// application, what it was built with, and what came with it. Together they are about
// 60,000 files.
func appPackages() [][]string {
	return [][]string{
		{"@mui/icons-material@5.16.14", "@mui/material@5.16.14", "react@18.3.1", "react-dom@18.3.1"},
		{"googleapis@148.0.0", "typescript@5.8.2", "next@15.2.3", "aws-sdk@2.1692.0", "rxjs@7.8.2", "core-js@3.41.0"},
		{"node-red@4.0.9", "webpack@5.98.0", "eslint@9.22.0", "date-fns@4.1.0", "lodash@4.17.21"},
	}
}

// NodeApp makes an image of Node-RED, a web application on Node.js, in five gzip
// layers, about 60,000 files and 1.2 GB uncompressed. Its start opens about 2,000
// files. It is made of the Node.js of this machine and of packages from the registry
// that npm is set up to reach.
func NodeApp(ctx context.Context, scratch string) (v1.Image, error) {
	base, err := nodeRuntime(ctx, scratch)
	if err != nil {
		return nil, err
	}
	layers := []Layer{
		{
			Dirs:  []string{"dev", "etc", "proc", "root", "sys", "tmp", "data"},
			Files: map[string][]byte{"etc/passwd": []byte("root:x:0:0:root:/root:/bin/false\n")},
			Trees: []Tree{{Base: "/", Path: "usr/share/zoneinfo", To: ""}, {Base: "/", Path: "etc/ssl/certs", To: ""}},
		},
		base,
	}
	for i, packages := range appPackages() {
		dir := filepath.Join(scratch, fmt.Sprintf("packages%d", i))
		if err := npmInstall(ctx, dir, packages); err != nil {
			return nil, err
		}
		layers = append(layers, Layer{Trees: []Tree{{
			Base: dir, Path: ".", To: fmt.Sprintf("app%d", i),
			Skip: []string{"node_modules/@mui/icons-material/esm"}, // the same icons once more
		}}})
	}
	app := fmt.Sprintf("/app%d", len(appPackages())-1)
	return Build(ctx, scratch, layers, v1.Config{
		Entrypoint: []string{"/usr/bin/node", app + "/node_modules/node-red/red.js", "--userDir", "/data", "--port", strconv.Itoa(NodeAppPort)},
		WorkingDir: app,
		Env:        []string{"PATH=/usr/bin:/bin", "HOME=/root"},
	})
}

// nodeRuntime is the layer of the node program of this machine, with npm and the
// libraries that it is linked to, and of busybox.
func nodeRuntime(ctx context.Context, scratch string) (Layer, error) {
	layer := Layer{Files: make(map[string][]byte)}
	node, err := exec.LookPath("node")
	if err != nil {
		return layer, errors.Join(errors.New("finding the Node.js of this machine: install it"), err)
	}
	out, err := exec.CommandContext(ctx, "ldd", node).Output()
	if err != nil {
		return layer, fmt.Errorf("finding the libraries of %s: %w", node, err)
	}
	files := map[string]string{"usr/bin/node": node}
	for field := range strings.FieldsSeq(string(out)) {
		if filepath.IsAbs(field) {
			files[strings.TrimPrefix(field, "/")] = field
		}
	}
	if busybox, err := exec.LookPath("busybox"); err == nil {
		files["bin/busybox"] = busybox
	}
	for name, path := range files {
		if layer.Files[name], err = os.ReadFile(filepath.Clean(path)); err != nil {
			return layer, fmt.Errorf("reading a program of the runtime: %w", err)
		}
	}
	npm := filepath.Join(scratch, "npm")
	if err := npmInstall(ctx, npm, []string{"npm@11.6.2"}); err != nil {
		return layer, err
	}
	layer.Trees = []Tree{{Base: npm, Path: ".", To: "usr/lib"}}
	return layer, nil
}

// npmInstall installs packages below a directory.
func npmInstall(ctx context.Context, dir string, packages []string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("making the application directory: %w", err)
	}
	args := append([]string{
		"install", "--prefix", dir, "--no-audit", "--no-fund", "--ignore-scripts", "--legacy-peer-deps", "--loglevel=error", "--fetch-timeout=20000",
	}, packages...)
	if out, err := exec.CommandContext(ctx, "npm", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("installing packages with npm: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
