#!/usr/bin/env bash
# Usage: docs.sh PROGRAMS DIR
#
# Writes the manual pages and the shell completions of the programs, which are those of this
# machine, to DIR.
set -euo pipefail

programs=$1 dir=$2
rm -rf "$dir"
mkdir -p "$dir"
for program in brisk kubectl-brisk brisk-node; do
	"$programs/$program" docs "$dir"
done
cp "$(dirname "$0")/brisk-keeper.8" "$dir/man8/"
gzip -9n "$dir"/man?/*
