package mkimage

import (
	"context"
	"path/filepath"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// RedisPort is where the server of [Redis] answers.
const RedisPort = 6379

// debianBase are the packages of a small Debian.
func debianBase() []string {
	return []string{
		"apt", "base-files", "base-passwd", "bash", "busybox-static", "ca-certificates", "coreutils", "dash", "debianutils", "diffutils", "dpkg",
		"findutils", "grep", "gzip", "hostname", "libc-bin", "login", "mount", "ncurses-base", "perl-base", "sed", "tar", "tzdata", "util-linux",
	}
}

// Redis makes an image of the Redis server on a small Debian, in two gzip layers. It is
// made of packages of the Debian archive that apt of this machine is set up to reach.
func Redis(ctx context.Context, scratch string) (v1.Image, error) {
	packages, err := debianPackages(ctx, scratch, append(debianBase(), "redis-server")...)
	if err != nil {
		return nil, err
	}
	root := filepath.Join(scratch, "root")
	if err := unpackDebian(ctx, root, packages); err != nil {
		return nil, err
	}
	server := []string{"usr/bin/redis-server", "usr/bin/redis-check-rdb", "usr/bin/redis-check-aof", "usr/bin/redis-cli", "usr/bin/redis-benchmark"}
	base := Tree{Base: root, Path: ".", Skip: append([]string{"usr/share/doc"}, server...)}
	above := Layer{}
	for _, file := range server {
		above.Trees = append(above.Trees, Tree{Base: root, Path: file})
	}
	return Build(ctx, scratch, []Layer{{Trees: []Tree{base}}, above}, v1.Config{
		Entrypoint: []string{"/usr/bin/redis-server", "--port", strconv.Itoa(RedisPort), "--save", "", "--protected-mode", "no", "--dir", "/tmp"},
		WorkingDir: "/",
		Env:        []string{"PATH=/usr/sbin:/usr/bin"},
	})
}
