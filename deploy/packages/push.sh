#!/usr/bin/env bash
# Usage: push.sh BUILD REGISTRY ARCH...
#
# Builds the images that the chart runs, and pushes them to REGISTRY: for each program an OCI
# image index of VERSION with an image for each ARCH, which is tagged VERSION-ARCH. BUILD
# is a directory for what is built on the way. Needs the environment variables CRANE (a
# program), VERSION, LDFLAGS and SOURCE_DATE_EPOCH. The same commit gives the same digests.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
build=$1 registry=$2
shift 2
for program in brisk-node brisk-scheduler; do
	image=$registry/$program:$VERSION
	manifests=()
	for arch in "$@"; do
		"$here/programs.sh" "$build" "linux/$arch" "$program"
		layer=$build/$program-$arch.tar.gz
		tar -C "$build/linux-$arch" --owner=0 --group=0 --numeric-owner --mode=0755 --mtime="@$SOURCE_DATE_EPOCH" \
			-c "$program" | gzip -9n >"$layer"
		"$CRANE" append --oci-empty-base -f "$layer" -t "$image-$arch" >/dev/null
		"$CRANE" mutate --set-platform "linux/$arch" --entrypoint "/$program" -t "$image-$arch" "$image-$arch" >/dev/null
		manifests+=(-m "$image-$arch")
	done
	"$CRANE" index append "${manifests[@]}" -t "$image"
done
