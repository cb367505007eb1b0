#!/bin/sh
# Look up known vulnerabilities of the versions in requirements.lock with pip-audit, which asks a service on the network.
set -eu
. "$(dirname "$0")/common.sh"
"$uv" tool run pip-audit --strict --requirement requirements.lock --disable-pip --no-deps --progress-spinner off ||
    fail "Some versions are vulnerable, or could not be looked up." "the messages above of pip-audit" \
        "no known vulnerability in requirements.lock" "make lock UPGRADE=1, or check the network, then make audit again"
