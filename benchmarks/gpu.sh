#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the GPU stages with the installed packages of PYTHON (default: python3). It downloads nothing. See --help.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH=$root:$root/benchmarks${PYTHONPATH:+:$PYTHONPATH} # so the package need not be installed
exec "${PYTHON:-python3}" -m gpu "$@"
