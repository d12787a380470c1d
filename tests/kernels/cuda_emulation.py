# SPDX-License-Identifier: Apache-2.0
"""Emulate the CUDA kernels on a CPU.

A C++ compiler compiles csrc/cuda against the headers in on_cpu/, where each thread of a block is a fiber. The result is
registered as the `cuda` backend of CPU tensors.

This needs GCC 12 or later on x86-64.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from stylefast.backends import BACKENDS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "cuda_on_cpu"
LIBRARY = BUILD / "plain" / "libstylefast_cuda_on_cpu.so"
COMPILER = os.environ.get("CXX", "g++")
FLAGS = (
    "-std=c++17 -g1 -fPIC -fvisibility=hidden -ffp-contract=fast -mfma -mf16c -fno-strict-aliasing -Wall -Wextra "
    "-Werror -Wno-unknown-pragmas -Wno-psabi -Wno-maybe-uninitialized -DUSE_CUDA "
    "-DTORCH_TARGET_VERSION=0x020a000000000000"
)


def build(name: str, *flags: str) -> Path:
    """Compile the library into a folder of build/cuda_on_cpu, unless that folder has a library of the same sources."""
    folder, include = BUILD / name, Path(torch.__file__).parent / "include"
    library, build_id = folder / LIBRARY.name, source_id(*flags)
    if library.exists() and bytes.fromhex(build_id) in library.read_bytes():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    command = [COMPILER, *FLAGS.split(), *flags, f"-I{folder}", f"-I{HERE / 'on_cpu'}", f"-isystem{include}", "-c"]
    # GCC finds the precompiled header in the folder before it finds prefix.h. Parsing it takes about a second per unit.
    prefix = HERE / "on_cpu" / "prefix.h"
    subprocess.run([*command, "-x", "c++-header", prefix, "-o", folder / "prefix.h.gch"], check=True)

    def compile_one(source: Path) -> Path:
        unit = folder / f"{source.parent.name}-{source.stem}.o"
        language = ["-include", prefix.name, "-x", "c++"] if source.suffix == ".cu" else []
        subprocess.run([*command, *language, source, "-o", unit], check=True)
        return unit

    sources = [*sorted((ROOT / "csrc" / "cuda").rglob("*.cu")), *sorted((HERE / "on_cpu").glob("*.cpp"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        units = list(pool.map(compile_one, sources))
    torch_libraries = [f"-L{include.parent / 'lib'}", "-ltorch_cpu", "-lc10"]
    subprocess.run(
        [COMPILER, "-shared", f"-Wl,--build-id=0x{build_id}", *flags, *units, *torch_libraries, "-o", library],
        check=True,
    )
    return library


def source_id(*flags: str) -> str:
    """Return the SHA-1 of the kernels, the stand-ins for CUDA, and the options."""
    folders = (ROOT / "csrc" / "common", ROOT / "csrc" / "cuda", HERE / "on_cpu")
    files = sorted(path for folder in folders for path in folder.rglob("*.*"))
    texts = [f"{COMPILER} {FLAGS} {flags}".encode(), *(path.name.encode() + path.read_bytes() for path in files)]
    return hashlib.sha1(b"\0".join(texts)).hexdigest()


def load(library: str) -> ctypes.CDLL:
    """Register the library as the `cuda` backend. The backend then takes CPU tensors if it is named explicitly."""
    BACKENDS["cuda"] = replace(
        BACKENDS["cuda"],
        key="CPU",
        devices=("cpu",),
        automatic=False,
        reason=lambda: None,
        supports=lambda device: None,
    )
    torch.ops.load_library(library)
    return ctypes.CDLL(library)
