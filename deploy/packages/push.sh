#!/usr/bin/env bash
# Usage: push.sh BUILD REGISTRY ARCH...
#
# Builds the images that the chart runs and that of the command line, and pushes them to REGISTRY: for each program an OCI
# image index of VERSION with an image for each ARCH, which is tagged VERSION-ARCH. BUILD
# is a directory for what is built on the way. Needs the environment variables CRANE (a
# program), VERSION, LDFLAGS and SOURCE_DATE_EPOCH. The same commit gives the same digests.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
build=$1 registry=$2
shift 2
for program in brisk brisk-node brisk-scheduler; do
	image=$registry/$program:$VERSION
	manifests=()
	for arch in "$@"; do
		"$here/programs.sh" "$build" "linux/$arch" "$program"
		layer=$build/$program-$arch.tar.gz
		options=(--owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH")
		tar -C "$build/linux-$arch" "${options[@]}" --mode=0755 -cf "${layer%.gz}" "$program"
		if [ "$program" = brisk ]; then # conversions may need a place for a layer
			mkdir -p "$build/empty/tmp"
			tar -C "$build/empty" "${options[@]}" --mode=1777 -rf "${layer%.gz}" tmp
		fi
		gzip -9nf "${layer%.gz}"
		"$CRANE" append --oci-empty-base -f "$layer" -t "$image-$arch" >/dev/null
		"$CRANE" mutate --set-platform "linux/$arch" --entrypoint "/$program" -t "$image-$arch" "$image-$arch" >/dev/null
		manifests+=(-m "$image-$arch")
	done
	"$CRANE" index append "${manifests[@]}" -t "$image"
done
