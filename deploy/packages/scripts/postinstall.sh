#!/bin/sh
# After installing or upgrading. Nothing is started that did not run: "brisk-node install"
# does that. A running agent is restarted; the keeper is not, for it holds the mounts.
set -e

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart brisk-node.service
fi
