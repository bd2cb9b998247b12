#!/bin/sh
# After removing or upgrading. What images the node has in /var/lib/brisk stays.
set -e

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
