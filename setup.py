# SPDX-License-Identifier: Apache-2.0
"""Builds libstylefast_cpu.so on PyTorch's stable ABI: one binary for torch >= 2.10 and any Python.

The build asks the toolchain and the environment, never the machine's processor. Without a C++ compiler the package is
installed all the same and runs on its `reference` backend.
"""

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FLAGS = [
    "-std=c++17",
    "-O3",
    "-ffp-contract=fast",  # a * b + c is one rounding wherever the instruction set has it
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp-simd",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-maybe-uninitialized",  # GCC 12 gives it, falsely, for its own intrinsics and shared_ptr
    "-Wno-psabi",
    "-Wno-unknown-pragmas",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
]


def compiler() -> str | None:
    return next((c for c in (os.environ.get("CXX"), "g++", "clang++", "c++") if c and shutil.which(c)), None)


class BuildLibraries(build_ext):
    def run(self) -> None:
        if compiler() is None:
            print("stylefast: no C++ compiler found; installing without CPU kernels", file=sys.stderr)
            self.extensions = []
        super().run()

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"

    def build_extension(self, ext: Extension) -> None:
        import torch

        root = Path(torch.__file__).parent
        target = self.get_ext_fullpath(ext.name)
        build = Path(self.build_temp)
        cxx = str(compiler())

        def compile_one(source: str) -> str:
            unit = build / (Path(source).stem + ".o")
            self.spawn([cxx, *FLAGS, "-fPIC", f"-isystem{root / 'include'}", "-c", source, "-o", str(unit)])
            return str(unit)

        build.mkdir(parents=True, exist_ok=True)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            units = list(pool.map(compile_one, ext.sources))
        self.spawn([cxx, "-shared", *units, f"-L{root / 'lib'}", "-ltorch_cpu", "-lc10", "-o", target])


class PythonIndependentWheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            "stylefast.libstylefast_cpu",
            sources=sorted(map(str, Path("csrc/cpu").glob("*.cpp"))),
            depends=sorted(map(str, Path("csrc").rglob("*.h"))),
        )
    ],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": PythonIndependentWheel},
)
