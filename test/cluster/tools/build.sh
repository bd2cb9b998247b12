#!/bin/sh
# Usage: build.sh DIR
#
# Builds the programs of a cluster, of the versions in the modules here, into DIR.
set -eu

[ $# -eq 1 ] || { echo "usage: build.sh DIR" >&2; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
cd "$(dirname "$0")"
work=$(mktemp -d "$dir/.build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

export GOFLAGS="-mod=readonly -buildvcs=false -trimpath" GOWORK=off CGO_ENABLED=0
strip="-s -w"

plugins=github.com/containernetworking/plugins/plugins
(cd support && go build -ldflags "$strip" -o "$work/" $plugins/main/bridge $plugins/main/loopback \
	$plugins/ipam/host-local github.com/distribution/distribution/v3/cmd/registry)
(cd support && go build -ldflags "$strip" -o "$work/etcd" go.etcd.io/etcd/server/v3)

# Without a version in them the programs take themselves for v0.0.0.
cd kubernetes
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${version#v1.}
stamp=$strip
for pkg in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
	stamp="$stamp -X $pkg.gitVersion=$version -X $pkg.gitMajor=1 -X $pkg.gitMinor=${minor%%.*} -X $pkg.gitTreeState=clean"
done
for program in kube-apiserver kube-controller-manager kube-scheduler kubelet; do
	go build -ldflags "$stamp" -o "$work/$program" k8s.io/kubernetes/cmd/$program
done
mv "$work"/* "$dir/"
