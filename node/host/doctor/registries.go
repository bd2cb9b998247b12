package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/brisk-project/brisk/image/registry/credential"
	"github.com/brisk-project/brisk/image/registry/hosts"
	containerdapi "github.com/brisk-project/brisk/node/containerd"
)

// openToOthers are the bits of the mode of a file that let others read or change it.
const openToOthers = 0o077

// credentials checks every place where credentials come from, and where they are kept.
func (d *doctor) credentials(ctx context.Context) {
	cfg := d.cfg.Node.Credentials
	if path := cfg.DockerConfig; path != "" {
		switch err := credential.CheckDockerConfig(path); {
		case err != nil:
			d.fail("correct credentials.dockerConfig, or the file", "%v", err)
		default:
			d.private(path)
		}
	}
	if dir := cfg.Directory; dir != "" {
		d.directory(ctx, dir)
	}
	if cfg.Plugins.Config != "" {
		n, err := credential.CheckPlugins(credential.PluginConfig{ConfigPath: cfg.Plugins.Config, BinDir: cfg.Plugins.BinDir})
		if err != nil {
			d.fail("compare credentials.plugins with --image-credential-provider-config and --image-credential-provider-bin-dir of kubelet", "%v", err)
		} else {
			d.ok("%d credential plugins of kubelet can be run", n)
		}
	}
	file, key := d.cfg.Node.CredentialFiles()
	if err := credential.CheckCacheFile(file, key); err != nil {
		d.warn("nothing: the agent begins without them and writes the file anew", "what is kept of credentials cannot be used: %v", err)
	} else {
		d.ok("credentials are kept in %s, sealed", file)
	}
}

// directory checks a directory with credentials.
func (d *doctor) directory(ctx context.Context, dir string) {
	const advice = "correct credentials.directory, or what is in it"
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		d.fail(advice, "%v", errors.Join(fmt.Errorf("%s is no directory that can be read", dir), err))
		return
	}
	n, err := credential.CheckDirectory(ctx, dir)
	if err != nil {
		d.warn(advice, "%v", err)
	}
	d.ok("%s has credentials for %d places", dir, n)
}

// private warns of what everybody may read.
func (d *doctor) private(path string) {
	info, err := os.Stat(path)
	if err == nil && info.Mode().Perm()&openToOthers != 0 {
		d.warn("chmod go= "+path, "others may read %s, which has mode %04o", path, info.Mode().Perm())
	}
}

// registries checks the files that say how registries are reached.
func (d *doctor) registries(context.Context) {
	files := 0
	for _, root := range filepath.SplitList(d.cfg.Node.Registry.ConfigPath) {
		entries, err := os.ReadDir(root)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			d.fail("let root read it, or change registry.configPath", "%v", err)
			continue
		}
		for _, entry := range entries {
			dir := filepath.Join(root, entry.Name())
			if info, err := os.Stat(dir); err != nil || !info.IsDir() {
				continue
			}
			if err := hosts.Check(dir); err != nil {
				d.fail("correct the file: containerd does not use it either", "%v", err)
				continue
			}
			files++
		}
	}
	if files == 0 {
		d.ok("no mirrors are configured")
		return
	}
	d.ok("%d registries have a directory with hosts or certificates", files)
}

// kubelet checks that calls of kubelet get through to the runtime.
func (d *doctor) kubelet(ctx context.Context) {
	cri := d.cfg.Node.CRI
	if cri.Socket == "" {
		d.ok("pull secrets that only kubelet has are not used, since cri.socket is not set")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := containerdapi.CheckImageService(ctx, d.cfg.Node.Runtime()); err != nil {
		d.fail("start containerd, or set cri.runtime", "%v", err)
		return
	}
	if err := containerdapi.CheckImageService(ctx, cri.Socket); err != nil {
		d.fail("start the agent: without it kubelet cannot pull images", "%v", err)
		return
	}
	d.ok("%s hands on what kubelet asks, if its imageServiceEndpoint is unix://%s", cri.Socket, cri.Socket)
}
