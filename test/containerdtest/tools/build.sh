#!/bin/sh
# Usage: build.sh DIR
#
# Builds containerd, its shim, ctr and runc, of the versions in go.mod here, into DIR.
# runc is linked against libseccomp; where its headers are not installed they are taken
# from the Debian package, which is unpacked beside the programs for the time being.
set -eu

[ $# -eq 1 ] || { echo "usage: build.sh DIR" >&2; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
cd "$(dirname "$0")"
work=$(mktemp -d "$dir/.build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

export GOFLAGS="-mod=readonly -buildvcs=false -trimpath" GOWORK=off
containerd=github.com/containerd/containerd/v2
CGO_ENABLED=0 go build -tags "no_btrfs no_devmapper no_zfs" \
	-ldflags "-s -w -X $containerd/version.Version=$(go list -m -f '{{.Version}}' $containerd)" \
	-o "$work/" $containerd/cmd/containerd $containerd/cmd/containerd-shim-runc-v2 $containerd/cmd/ctr

tags="seccomp netgo osusergo"
if ! pkg-config --exists libseccomp 2>/dev/null; then
	if (cd "$work" && chmod 755 . && apt-get download -qq libseccomp-dev >&2 && dpkg -x libseccomp-dev*.deb seccomp); then
		lib=$(echo "$work"/seccomp/usr/lib/*-linux-gnu*)
		export PKG_CONFIG_PATH="$lib/pkgconfig" CGO_CFLAGS="-I$work/seccomp/usr/include" CGO_LDFLAGS="-L$lib"
	else
		echo "build.sh: no libseccomp; runc is built without" >&2
		tags="netgo osusergo"
	fi
fi
CGO_ENABLED=1 go build -tags "$tags" -ldflags "-s -w -linkmode external -extldflags -static" \
	-o "$work/runc" github.com/opencontainers/runc
mv "$work/containerd" "$work/containerd-shim-runc-v2" "$work/ctr" "$work/runc" "$dir/"
