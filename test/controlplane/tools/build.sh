#!/bin/sh
# Usage: build.sh VERSION FILE
#
# Builds kube-apiserver from the module kubernetes-VERSION here into FILE.
set -eu

[ $# -eq 2 ] || { echo "usage: build.sh VERSION FILE" >&2; exit 2; }
mkdir -p "$(dirname "$2")"
file=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
cd "$(dirname "$0")/kubernetes-$1"
export GOFLAGS="-mod=readonly -buildvcs=false -trimpath" GOWORK=off CGO_ENABLED=0

# Without a version in it the program reports v0.0.0, and charts refuse it.
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
stamp="-s -w"
for pkg in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
	stamp="$stamp -X $pkg.gitVersion=$version -X $pkg.gitMajor=1 -X $pkg.gitMinor=${1#1.} -X $pkg.gitTreeState=clean"
done
go build -ldflags "$stamp" -o "$file" k8s.io/kubernetes/cmd/kube-apiserver
