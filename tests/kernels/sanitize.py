# SPDX-License-Identifier: Apache-2.0
"""Build the CPU kernels with sanitizers and run tests/kernels/sanitized.py on every instruction set: `make sanitize`.

This needs GCC with its sanitizers. setup.py defines the sources and flags. The libraries go to build/sanitize.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "sanitize"
COMPILER = os.environ.get("CXX", "g++")
# Instead of the optimisation of setup.py: kernels that are a little slower, but compile in two thirds of the time. The
# other builds judge the warnings.
OPTIONS = "-Og -g1 -w"
HEADERS = ("<torch/csrc/stable/library.h>", "<torch/csrc/stable/ops.h>", "<torch/csrc/stable/tensor.h>")
SETS = ("avx512", "avx2", "portable")


@dataclass(frozen=True)
class Sanitizer:
    """A sanitizer of the compiler.

    `runtime` is preloaded, because Python is not linked against it. `options` are environment variables.
    """

    name: str
    flags: str
    runtime: str
    options: dict[str, str]


SANITIZERS = (
    Sanitizer(
        "address",
        "-fsanitize=address,undefined -fno-sanitize-recover=all",
        "libasan.so",
        {"ASAN_OPTIONS": "detect_leaks=0:redzone=2048:malloc_context_size=4", "UBSAN_OPTIONS": "print_stacktrace=1"},
    ),
    Sanitizer(
        "thread",
        "-fsanitize=thread",
        "libtsan.so",
        {"TSAN_OPTIONS": "halt_on_error=1:die_after_fork=0:ignore_noninstrumented_modules=1"},
    ),
)


def build(sanitizer: Sanitizer) -> Path:
    """Build the library by setup.py, with a compiler that adds the sanitizer's flags; return its path.

    The compiler includes sanitize.h before every source. The headers of torch take a second per source, so that they
    are compiled once, with sanitize.h.
    """
    import torch

    from setup import FLAGS

    folder = BUILD / sanitizer.name
    folder.mkdir(parents=True, exist_ok=True)
    compiler, header = folder / "compiler", folder / "prefix.h"
    header.write_text("".join(f"#include {name}\n" for name in (*HEADERS, f'"{Path(__file__).with_suffix(".h")}"')))
    compiler.write_text(f'#!/bin/sh\nexec {COMPILER} "$@" {OPTIONS} {sanitizer.flags}\n')
    compiler.chmod(0o755)
    include = Path(torch.__file__).with_name("include")
    flags = [*FLAGS, "-fPIC", f"-isystem{include}"]
    subprocess.run([compiler, *flags, "-x", "c++-header", header, "-o", f"{header}.gch"], check=True)
    environment = {**os.environ, "CXX": str(compiler), "CXXFLAGS": f"-include {shlex.quote(str(header))}"}
    command = ["setup.py", "-q", "build_ext", "--build-temp", str(folder), "--build-lib", str(folder)]
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True)
    return folder / "stylefast" / "backends" / "libstylefast_cpu.so"


def runtime(name: str) -> str:
    """Return the path of one of the compiler's libraries."""
    path = subprocess.check_output([COMPILER, f"-print-file-name={name}"], text=True).strip()
    if not os.path.isabs(path):
        raise SystemExit(f"{COMPILER} has no {name}: the sanitizers need GCC, found as g++ or given by CXX")
    return path


def check(sanitizer: Sanitizer, library: Path) -> None:
    """Run the checks on all instruction sets. Exit if the sanitizer reports a fault."""
    environment = {
        **os.environ,
        **sanitizer.options,
        "LD_PRELOAD": f"{runtime(sanitizer.runtime)} {runtime('libstdc++.so.6')}",
        "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads sleep
        "OPENBLAS_NUM_THREADS": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support", ROOT / "tests" / "ops"))),
    }
    script = str(Path(__file__).with_name("sanitized.py"))
    process = subprocess.run([sys.executable, script, sanitizer.name, str(library), *SETS], cwd=ROOT, env=environment)
    if process.returncode != 0:
        raise SystemExit(f"{sanitizer.name} sanitizer: not clean")


def main() -> None:
    for sanitizer in SANITIZERS:
        start = time.monotonic()
        library = build(sanitizer)
        print(f"{sanitizer.name}: built in {time.monotonic() - start:.0f} s", flush=True)
        check(sanitizer, library)


if __name__ == "__main__":
    main()
