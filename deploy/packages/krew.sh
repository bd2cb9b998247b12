#!/usr/bin/env bash
# Usage: krew.sh RELEASE URL
#
# Writes RELEASE/krew/brisk.yaml, the manifest of "kubectl brisk" for krew, whose archives
# are those in RELEASE, to be fetched from URL.
set -euo pipefail

release=$1 url=$2
mkdir -p "$release/krew"
exec >"$release/krew/brisk.yaml"
archives=("$release"/kubectl-brisk_*.tar.gz)
version=$(cut -d_ -f2 <<<"${archives[0]##*/}")
cat <<END
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: brisk
spec:
  version: v$version
  homepage: https://github.com/brisk-project/brisk
  shortDescription: Show where images are warm, and why pods go where they go
  description: |
    Brisk starts containers before their image has arrived. This plugin shows which
    nodes of a cluster have what of which image, and how long a pod would wait for its
    images on each node.
  caveats: |
    Brisk has to be installed in the cluster.
  platforms:
END
for archive in "${archives[@]}"; do
	name=${archive##*/}
	IFS=_ read -r _ _ os arch <<<"${name%.tar.gz}"
	cat <<END
    - selector:
        matchLabels:
          os: $os
          arch: $arch
      uri: $url/$name
      sha256: $(sha256sum <"$archive" | cut -d' ' -f1)
      bin: kubectl-brisk
END
done
