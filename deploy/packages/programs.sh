#!/usr/bin/env bash
# Usage: programs.sh DIR OS/ARCH PROGRAM...
#
# Builds programs of cmd/ for a platform into DIR/OS-ARCH. Their bytes depend on the source,
# the version of Go and LDFLAGS only.
set -euo pipefail

dir=$(realpath -m "$1")/${2/\//-}
export GOOS=${2%/*} GOARCH=${2#*/} CGO_ENABLED=0
shift 2
cd "$(dirname "$0")/../.."
mkdir -p "$dir"
"${GO:-go}" build -trimpath -buildvcs=false -ldflags "-s -w ${LDFLAGS:-}" -o "$dir/" "${@/#/./cmd/}"
