#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Rehearses the GPU stages in a copy of the source tree without .git and, if this is root, as a user who owns the copy
# and may write nowhere else.
set -euo pipefail
cd "$(dirname "$0")/../.."
make .venv-oldest/requirements
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- -c | tar -x -C "$copy"
for built in stylefast/backends/libstylefast_cpu.so build/cuda_on_cpu/plain/*.so; do # carried along; the CUDA library is built
  if [ -e "$built" ]; then
    mkdir -p "$copy/$(dirname "$built")"
    cp "$built" "$copy/$built"
  fi
done
ln -s "$PWD/.venv-oldest" "$copy/.venv-oldest"
export HOME=$copy
user=()
if [ "$(id -u)" = 0 ]; then
  chown -R nobody "$copy"
  read_all=(--inh-caps=+dac_read_search --ambient-caps=+dac_read_search) # the interpreter may lie in root's home
  user=(setpriv "--reuid=nobody" "--regid=$(id -g nobody)" --clear-groups "${read_all[@]}")
fi
"${user[@]}" make -C "$copy" gpu-rehearsal
