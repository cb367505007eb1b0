#!/bin/sh
# Look up known vulnerabilities of the versions in requirements.lock with pip-audit, which asks a service on the network.
set -eu
. "$(dirname "$0")/common.sh"
"$uv" tool run pip-audit --requirement requirements.lock --disable-pip --no-deps --progress-spinner off
