#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds in place, tests the GPU's backends, measures them. Uses what is installed and downloads nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
shares=${SHARES:-8} # processes that share the GPU: most of a test is the compilation of its kernels

"$python" - <<'CHECK'
import sys
import torch
sys.exit(None if torch.cuda.is_available() else "make gpu needs an NVIDIA GPU that torch can use")
CHECK
"$python" setup.py build_ext --inplace

require=(--require triton)
if "$python" -c 'import sys; from stylefast.backends import BACKENDS; sys.exit("cuda" not in BACKENDS)'; then
  require+=(--require cuda)
fi
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
pids=()
for share in $(seq "$shares"); do
  "$python" -m pytest -q -p no:cacheprovider -m "not large" "${require[@]}" --share "$share/$shares" \
    >"$logs/$share" 2>&1 &
  pids+=($!)
done
failed=0
for share in $(seq "$shares"); do
  if ! wait "${pids[share - 1]}"; then
    failed=1
    cat "$logs/$share"
  fi
  tail -n 1 "$logs/$share"
done
[ "$failed" = 0 ]

"$python" benchmarks/gpu.py --record
