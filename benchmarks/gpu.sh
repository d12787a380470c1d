#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds in place, tests the GPU's backends, measures them. Uses what is installed and downloads nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} # the package need not be installed
python=${PYTHON:-python3}
shares=${SHARES:-8} # processes that share the GPU: most of a test is the compilation of its kernels

"$python" - <<'CHECK'
import sys
import torch
sys.exit(None if torch.cuda.is_available() else "make gpu needs an NVIDIA GPU that torch can use")
CHECK
"$python" setup.py build_ext --inplace

require=(--require triton)
if "$python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)'; then
  require+=(--require cuda)
fi
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
pids=()
for share in $(seq "$shares"); do
  "$python" -m pytest -q -p no:cacheprovider -m "not large and not fetches" "${require[@]}" --share "$share/$shares" \
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

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck synccheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$python" -m pytest -q -p no:cacheprovider "${require[@]}" -k "test_agrees and cuda" tests/test_ops.py
  done
else
  echo "compute-sanitizer is not installed: memory and races are not checked"
fi

"$python" benchmarks/gpu.py --record
