package mkimage

import (
	"context"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// nodePackages are what [NodeModules] installs: an application with a large tree
// of small files, as Node.js images have.
func nodePackages() []string {
	return []string{"node-red@4.0.9", "webpack@5.98.0", "typescript@5.8.2", "eslint@9.22.0", "date-fns@4.1.0", "lodash@4.17.21"}
}

// NodeModules makes an image of an npm installation, about 20,000 files in two
// gzip layers. It needs npm and a package registry that npm is set up to reach.
func NodeModules(ctx context.Context, scratch string) (v1.Image, error) {
	app := filepath.Join(scratch, "app")
	if err := npmInstall(ctx, app, nodePackages()); err != nil {
		return nil, err
	}
	return Build(ctx, scratch, []Layer{
		{Dirs: []string{"dev", "etc", "proc", "root", "sys", "tmp"}},
		{Trees: []Tree{{Base: app, Path: ".", To: "app"}}},
	}, v1.Config{WorkingDir: "/app"})
}
