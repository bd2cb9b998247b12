package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/units"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node/host/install"
)

const (
	// minInodes is how many files have to fit on the disk.
	minInodes = 100_000
	// minMemory is how much memory the agent should be allowed.
	minMemory = 256 << 20
	// overlayMagic and the others are what statfs says of filesystems.
	overlayMagic = unix.OVERLAYFS_SUPER_MAGIC
	tmpfsMagic   = unix.TMPFS_MAGIC
	nfsMagic     = unix.NFS_SUPER_MAGIC
	cgroup2Magic = unix.CGROUP2_SUPER_MAGIC
)

// kernel checks the version of the kernel.
func (d *doctor) kernel(context.Context) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		d.warn("", "the version of the kernel is not known: %v", err)
		return
	}
	release := string(name.Release[:bytes.IndexByte(name.Release[:], 0)])
	major, minor, err := parseRelease(release)
	switch {
	case err != nil:
		d.warn("", "the version of the kernel is not known: %v", err)
	case major > 6 || major == 6 && minor >= 12:
		d.ok("Linux %s", release)
	case major > 5 || major == 5 && minor >= 16:
		d.warn("with Linux 6.12 or later images are mounted from plain files, which costs less", "Linux %s", release)
	default:
		d.warn("with Linux 6.12 or later images are mounted by EROFS, which costs far less than FUSE", "Linux %s", release)
	}
}

// parseRelease reads the version of a kernel, such as 6.18.2-generic.
func parseRelease(release string) (major, minor int, err error) {
	found := regexp.MustCompile(`^(\d{1,4})\.(\d{1,4})`).FindStringSubmatch(release)
	if found == nil {
		return 0, 0, fmt.Errorf("%.40q is not a version", release)
	}
	if major, err = strconv.Atoi(found[1]); err == nil {
		minor, err = strconv.Atoi(found[2])
	}
	return major, minor, err
}

// fuse checks that FUSE is there.
func (d *doctor) fuse(context.Context) {
	file, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		d.fail("load the module fuse, and run as root; in a container /dev/fuse has to be let in", "%v", err)
		return
	}
	if err := file.Close(); err != nil {
		d.warn("", "closing /dev/fuse: %v", err)
		return
	}
	d.ok("/dev/fuse can be opened")
}

// scratch makes a directory where the state of the node is, or will be.
func (d *doctor) scratch() (string, error) {
	dir := d.cfg.Node.Directory
	for {
		made, err := os.MkdirTemp(dir, ".brisk-doctor-")
		if !errors.Is(err, os.ErrNotExist) || dir == "/" {
			return made, err
		}
		dir = filepath.Dir(dir)
	}
}

// mounts tries to mount an image in every way.
func (d *doctor) mounts(ctx context.Context) {
	dir, err := d.scratch()
	if err != nil {
		d.fail("run as root", "no image can be mounted: %v", err)
		return
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is empty, or there is a finding
	advice := map[lazyfs.Backend]string{
		lazyfs.Erofs: "load the module erofs; the kernel needs CONFIG_EROFS_FS, and CONFIG_EROFS_FS_BACKED_BY_FILE (Linux 6.12)",
		lazyfs.Loop:  "load the modules erofs and loop",
		lazyfs.Tree:  "load the module fuse",
	}
	works := make(map[lazyfs.Backend]bool)
	for _, result := range lazyfs.Probe(ctx, filepath.Join(dir, "probe")) {
		works[result.Backend] = result.Err == nil
		switch {
		case result.Err == nil:
			d.ok("images can be mounted with %s", result.Backend)
		case string(result.Backend) == d.cfg.Node.Mount.Backend:
			d.fail(advice[result.Backend], "images cannot be mounted with %s, which mount.backend demands: %v", result.Backend, result.Err)
		default:
			d.warn(advice[result.Backend], "images cannot be mounted with %s: %v", result.Backend, result.Err)
		}
	}
	for _, ok := range works {
		if ok {
			return
		}
	}
	d.fail("see above; one of them is enough", "images cannot be mounted at all")
}

// overlay mounts an overlay where snapshots will be.
func (d *doctor) overlay(context.Context) {
	dir, err := d.scratch()
	if err != nil {
		d.fail("run as root", "no overlay can be mounted: %v", err)
		return
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is empty, or there is a finding
	if err := overlayutils.Supported(dir); err != nil {
		d.fail("load the module overlay, and put the directory on ext4 or xfs", "%v", err)
		return
	}
	d.ok("overlays can be mounted in %s", filepath.Dir(dir))
}

// disk checks the filesystem of the node's directory.
func (d *doctor) disk(context.Context) {
	dir := d.cfg.Node.Directory
	var fs unix.Statfs_t
	for {
		err := unix.Statfs(dir, &fs)
		if errors.Is(err, unix.ENOENT) && dir != "/" {
			dir = filepath.Dir(dir)
			continue
		}
		if err != nil {
			d.fail("", "%s: %v", dir, err)
			return
		}
		break
	}
	switch fs.Type {
	case overlayMagic:
		d.fail("choose another directory, on ext4 or xfs; in a container it has to be a volume", "%s is on an overlay filesystem", dir)
	case tmpfsMagic:
		d.warn("choose another directory, on ext4 or xfs", "%s is in memory: the cache takes memory from programs, and ends with the machine", dir)
	case nfsMagic:
		d.fail("choose another directory, on ext4 or xfs", "%s is on NFS", dir)
	}
	size := units.Size
	free, cache := int64(fs.Bavail)*fs.Bsize, int64(d.cfg.Node.Cache.Size)
	switch {
	case free < int64(d.cfg.Node.Cache.MinFree):
		d.fail("make room, or set cache.minFree lower", "%s has %s free, and less than cache.minFree, which is %s", dir, size(free), size(int64(d.cfg.Node.Cache.MinFree)))
	case int64(fs.Blocks)*fs.Bsize < cache:
		d.warn("set cache.size lower", "%s has %s in all, and cache.size is %s", dir, size(int64(fs.Blocks)*fs.Bsize), size(cache))
	default:
		d.ok("%s has %s free", dir, size(free))
	}
	// Some filesystems have no bound, and say 0.
	if fs.Files > 0 && fs.Ffree < minInodes {
		d.warn("remove files, or choose another filesystem", "%s has room for %d more files only", dir, fs.Ffree)
	}
}

// cgroup checks what the agent may use.
func (d *doctor) cgroup(context.Context) {
	const root = "/sys/fs/cgroup"
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		d.warn("mount the cgroup filesystem", "%s: %v", root, err)
		return
	}
	if fs.Type != cgroup2Magic {
		d.warn("boot with systemd.unified_cgroup_hierarchy=1", "control groups are of version 1: limits of memory count the cache of others too")
		return
	}
	dir := filepath.Join(root, "system.slice", install.UnitName)
	content, err := os.ReadFile(filepath.Join(dir, "memory.max"))
	if errors.Is(err, os.ErrNotExist) {
		d.ok("control groups are of version 2")
		return
	}
	limit, parseErr := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64)
	switch {
	case err != nil:
		d.warn("", "the limits of the agent are not known: %v", err)
	case parseErr == nil && limit < minMemory:
		d.warn("allow it 256 MiB at least", "the agent is allowed %s of memory", units.Size(limit))
	default:
		d.ok("control groups are of version 2, and leave the agent enough memory")
	}
}
