#!/usr/bin/env bash
# Usage: release.sh BUILD OUT ARCH...
#
# Puts everything that a release consists of into OUT: packages, archives, an SBOM for each
# program, checksums, and in OUT/krew the manifest for krew. BUILD is a directory for what is
# built on the way. The same commit gives the same bytes. Needs the environment variables
# NFPM and CYCLONEDX (programs), VERSION, LDFLAGS and SOURCE_DATE_EPOCH.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
build=$(realpath -m "$1") out=$(realpath -m "$2")
shift 2
date=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)

# archive FILE DIR: everything in DIR, without what differs between machines
archive() {
	tar -C "$2" --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime="@$SOURCE_DATE_EPOCH" \
		--format=gnu -c . | gzip -9n >"$1"
}

# sbom OS ARCH PROGRAM: the modules in a program
sbom() {
	local file=$out/$3_${VERSION}_$1_$2.cdx.json
	GOOS=$1 GOARCH=$2 "$CYCLONEDX" bin -json -std -noserial -version "v$VERSION" -output "$file" "$build/$1-$2/$3"
	sed -i -E "s/^(    \"timestamp\": )\"[^\"]*\"/\1\"$date\"/" "$file"
}

"$here/packages.sh" "$build" "$out" "$@"
for arch in "$@"; do
	"$here/programs.sh" "$build" "darwin/$arch" kubectl-brisk
	stage=$build/stage
	for os in linux darwin; do
		rm -rf "$stage"
		mkdir "$stage"
		cp "$build/$os-$arch/kubectl-brisk" "$here/kubectl_complete-brisk" "$here/../../LICENSE" "$stage/"
		archive "$out/kubectl-brisk_${VERSION}_${os}_$arch.tar.gz" "$stage"
		sbom "$os" "$arch" kubectl-brisk
	done
	rm -rf "$stage"
	name=brisk_${VERSION}_linux_$arch
	mkdir -p "$stage/$name"
	cp "$build/linux-$arch"/{brisk,brisk-node,brisk-keeper} "$here/../../LICENSE" "$here/../../CHANGELOG.md" "$stage/$name/"
	cp -r "$here/../systemd" "$build/docs" "$stage/$name/"
	archive "$out/$name.tar.gz" "$stage"
	for program in brisk brisk-node brisk-keeper; do
		sbom linux "$arch" "$program"
	done
done
(cd "$out" && sha256sum -- * >SHA256SUMS)
"$here/krew.sh" "$out" "https://github.com/brisk-project/brisk/releases/download/v$VERSION"
