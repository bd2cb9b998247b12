#!/bin/sh
# Usage: containerds.sh DIR
#
# Builds the older containerd releases that brisk-node install supports into DIR, as
# DIR/VERSION/containerd with its shim, from the Go module proxy, and prints the paths
# of the programs as a PATH does. What is there already is not built again.
set -eu

versions='1.7.35 2.0.14 2.1.9 2.2.9 2.3.7'

[ $# -eq 1 ] || { echo "usage: containerds.sh DIR" >&2; exit 1; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

paths=
for version in $versions; do
	program=$dir/$version/containerd
	module=github.com/containerd/containerd
	case $version in 1.*) ;; *) module=$module/v${version%%.*} ;; esac
	if [ ! -x "$program" ]; then
		mkdir -p "$dir/$version" "$work/$version"
		(
			cd "$work/$version"
			go mod init example.com/containerd
			go get "$module/cmd/containerd@v$version" "$module/cmd/containerd-shim-runc-v2@v$version"
			# A release names its version when it is linked.
			CGO_ENABLED=0 go build -trimpath -tags no_btrfs,no_devmapper,no_zfs \
				-ldflags "-s -w -X $module/version.Version=v$version" -o . "$module/cmd/containerd" "$module/cmd/containerd-shim-runc-v2"
			mv containerd-shim-runc-v2 containerd "$dir/$version/"
		) >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
	fi
	paths=$paths${paths:+:}$program
done
echo "$paths"
