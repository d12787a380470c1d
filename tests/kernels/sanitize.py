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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "sanitize"
COMPILER = os.environ.get("CXX", "g++")
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
    """Build the library by setup.py, with a compiler that adds the sanitizer's flags; return its path."""
    folder = BUILD / sanitizer.name
    folder.mkdir(parents=True, exist_ok=True)
    compiler = folder / "compiler"
    header = shlex.quote(str(Path(__file__).with_suffix(".h")))
    compiler.write_text(f'#!/bin/sh\nexec {COMPILER} "$@" -O1 -g1 {sanitizer.flags} -include {header}\n')
    compiler.chmod(0o755)
    command = ["setup.py", "-q", "build_ext", "--build-temp", str(folder), "--build-lib", str(folder)]
    subprocess.run([sys.executable, *command], cwd=ROOT, env={**os.environ, "CXX": str(compiler)}, check=True)
    return folder / "stylefast" / "backends" / "libstylefast_cpu.so"


def runtime(name: str) -> str:
    """Return the path of one of the compiler's libraries."""
    path = subprocess.check_output([COMPILER, f"-print-file-name={name}"], text=True).strip()
    if not os.path.isabs(path):
        raise SystemExit(f"{COMPILER} has no {name}: the sanitizers need GCC, found as g++ or given by CXX")
    return path


def run(sanitizer: Sanitizer, library: Path, isa: str) -> str:
    """Run the checks; return the last line that they print. Exit if the sanitizer reports a fault."""
    environment = {
        **os.environ,
        **sanitizer.options,
        "LD_PRELOAD": f"{runtime(sanitizer.runtime)} {runtime('libstdc++.so.6')}",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support", ROOT / "tests" / "ops"))),
        "STYLEFAST_ISA": isa,
    }
    command = [sys.executable, str(Path(__file__).with_name("sanitized.py")), sanitizer.name, str(library)]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if f"STYLEFAST_ISA is {isa}, which this processor lacks" in process.stderr:
        return "this processor lacks it"
    if process.returncode != 0:
        raise SystemExit(f"{process.stdout}{process.stderr}\n{sanitizer.name} sanitizer, {isa}: not clean")
    return process.stdout.splitlines()[-1]


def timed(sanitizer: Sanitizer, library: Path, isa: str) -> str:
    start = time.monotonic()
    outcome = run(sanitizer, library, isa)
    return f"{sanitizer.name}, {isa}: {outcome} ({time.monotonic() - start:.0f} s)"


def main() -> None:
    for sanitizer in SANITIZERS:
        start = time.monotonic()
        library = build(sanitizer)
        print(f"{sanitizer.name}: built in {time.monotonic() - start:.0f} s", flush=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for line in pool.map(partial(timed, sanitizer, library), SETS):
                print(line, flush=True)


if __name__ == "__main__":
    main()
