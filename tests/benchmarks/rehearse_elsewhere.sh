#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Rehearses the GPU stages in a copy of the source tree without .git. If run as root, it switches to the user nobody,
# who owns the copy and may not write anywhere else.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset MAKEFLAGS # set if this runs under a parallel make
make .venv-oldest/requirements
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- -c | tar -x -C "$copy"
carry() { # FILE FOLDER: copies FILE, if it was built, into FOLDER of the copy
  if [ -e "$1" ]; then
    mkdir -p "$copy/$2"
    cp "$1" "$copy/$2"
  fi
}
carry stylefast/backends/libstylefast_cpu.so stylefast/backends
carry build/cuda/stylefast/backends/libstylefast_cuda.so stylefast/backends # built by `make cuda`
carry build/cuda_on_cpu/plain/libstylefast_cuda_on_cpu.so build/cuda_on_cpu/plain
ln -s "$PWD/.venv-oldest" "$copy/.venv-oldest"
export HOME=$copy
user=()
if [ "$(id -u)" = 0 ]; then
  chown -R nobody "$copy"
  read_all=(--inh-caps=+dac_read_search --ambient-caps=+dac_read_search) # the Python interpreter may lie in root's home
  user=(setpriv "--reuid=nobody" "--regid=$(id -g nobody)" --clear-groups "${read_all[@]}")
fi
"${user[@]}" make -C "$copy" gpu-rehearsal
