#!/usr/bin/env bash
# Usage: packages.sh BUILD OUT ARCH...
#
# Makes deb and rpm packages in OUT for each ARCH, which is what Go calls it. BUILD is a
# directory for what is built on the way. Needs the environment variables NFPM (a program),
# VERSION, LDFLAGS and SOURCE_DATE_EPOCH.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
build=$(realpath -m "$1") out=$(realpath -m "$2")
nfpm=$(realpath "$NFPM")
shift 2
host=$("${GO:-go}" env GOHOSTARCH)

rm -rf "$out"
mkdir -p "$out" "$build"
"$here/programs.sh" "$build" "linux/$host" brisk kubectl-brisk brisk-node brisk-keeper
"$here/docs.sh" "$build/linux-$host" "$build/docs"

# The units as they are, but for where the programs of packages are.
mkdir -p "$build/systemd"
for unit in "$here"/../systemd/*.service; do
	sed 's#=/usr/local/bin/#=/usr/bin/#' "$unit" >"$build/systemd/$(basename "$unit")"
done
gzip -9nc "$here/../../CHANGELOG.md" >"$build/changelog.gz"

export VERSION ARCH PROGRAMS BUILD=$build
cd "$here"
for ARCH in "$@"; do
	[ "$ARCH" = "$host" ] || ./programs.sh "$build" "linux/$ARCH" brisk kubectl-brisk brisk-node brisk-keeper
	PROGRAMS=$build/linux-$ARCH
	for package in brisk brisk-node; do
		for format in deb rpm; do
			"$nfpm" package --config "$package.yaml" --packager "$format" --target "$out/"
		done
	done
done
