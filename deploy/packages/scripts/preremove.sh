#!/bin/sh
# Before removing, but not before upgrading ($1 is "upgrade" for dpkg, and 1 for rpm).
# containerd must not be left with a snapshotter that is gone, nor containers without the
# process that they read from.
set -e

case "$1" in remove | 0) ;; *) exit 0 ;; esac

if grep -qs '^ExecStart=/usr/bin/brisk-node ' /etc/systemd/system/brisk-node.service; then
	echo 'containerd uses brisk-node: run "brisk-node uninstall" first' >&2
	exit 1
fi
[ -d /run/systemd/system ] || exit 0
for unit in brisk-node brisk-keeper; do
	if systemctl --quiet is-active "$unit.service"; then
		echo "$unit runs, and containers may read from it: drain the node, then run \"systemctl stop $unit\"" >&2
		exit 1
	fi
done
systemctl disable brisk-node.service brisk-keeper.service
