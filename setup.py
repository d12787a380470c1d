# SPDX-License-Identifier: Apache-2.0
"""Builds libstylefast_cpu.so and libstylefast_cuda.so on PyTorch's stable ABI: each one binary for torch >= 2.10 and
any Python.

The build asks the toolchains and the environment, never the machine's processor or GPU. Without a C++ compiler the
package is installed all the same and runs on its `reference` backend. STYLEFAST_CUDA=auto|0|1: whether the CUDA kernels
are built; auto builds them if torch is built for CUDA and nvcc is found.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

CPU, CUDA = "stylefast.libstylefast_cpu", "stylefast.libstylefast_cuda"

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


CUDA_FLAGS = [
    "-std=c++17",
    "-O3",
    "--threads=0",  # the architectures side by side
    "--expt-relaxed-constexpr",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wno-maybe-uninitialized,-Wno-psabi",
    "-DUSE_CUDA",
    FLAGS[-1],
]
ARCHITECTURES = ("80", "90", "100")  # those that the toolkit knows; of the last, PTX for what comes after it


def compiler() -> str | None:
    return next((c for c in (os.environ.get("CXX"), "g++", "clang++", "c++") if c and shutil.which(c)), None)


def nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    found = (os.environ.get("CUDACXX"), home and os.path.join(home, "bin", "nvcc"), "nvcc")
    return next((c for c in found if c and shutil.which(c)), None)


def wants_cuda() -> bool:
    import torch

    choice = os.environ.get("STYLEFAST_CUDA", "auto")
    if choice not in ("auto", "0", "1"):
        raise SystemExit(f"STYLEFAST_CUDA must be auto, 0 or 1, got {choice}")
    if choice == "0" or (choice == "auto" and torch.version.cuda is None):
        return False
    if compiler() is None or nvcc() is None:
        if choice == "1":
            raise SystemExit("STYLEFAST_CUDA=1 needs a C++ compiler and nvcc: on the PATH, in CUDA_HOME or as CUDACXX")
        print("stylefast: no nvcc found; installing without CUDA kernels", file=sys.stderr)
        return False
    return True


class BuildLibraries(build_ext):
    def run(self) -> None:
        if compiler() is None:
            print("stylefast: no C++ compiler found; installing without CPU kernels", file=sys.stderr)
        wanted = {CPU: compiler() is not None, CUDA: wants_cuda()}
        self.extensions = [extension for extension in self.extensions if wanted[extension.name]]
        super().run()

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"

    def build_extension(self, ext: Extension) -> None:
        import torch

        root = Path(torch.__file__).parent
        target = self.get_ext_fullpath(ext.name)
        build = Path(self.build_temp) / ext.name
        build.mkdir(parents=True, exist_ok=True)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        includes, libraries = [f"-isystem={root / 'include'}"], [f"-L{root / 'lib'}", "-ltorch_cpu", "-lc10"]
        if ext.name == CPU:
            compile_, link = [str(compiler()), *FLAGS, "-fPIC", f"-isystem{root / 'include'}"], [str(compiler())]
        else:
            compile_, link = [*self.cuda(), *CUDA_FLAGS, *includes], [*self.cuda(), *self.torch_cuda(build)]

        def compile_one(source: str) -> str:
            unit = build / (Path(source).stem + ".o")
            self.spawn([*compile_, "-c", source, "-o", str(unit)])
            return str(unit)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            units = list(pool.map(compile_one, ext.sources))
        self.spawn([*link, "-shared", *units, *libraries, "-o", target])

    def cuda(self) -> list[str]:
        """nvcc for the architectures that it knows."""
        known = subprocess.check_output([str(nvcc()), "--list-gpu-code"], text=True).split()
        chosen = [number for number in ARCHITECTURES if f"sm_{number}" in known]
        codes = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in chosen]
        newest = f"-gencode=arch=compute_{chosen[-1]},code=compute_{chosen[-1]}"
        return [str(nvcc()), f"-ccbin={compiler()}", *codes, newest]

    def torch_cuda(self, build: Path) -> list[str]:
        """Names libtorch_cuda.so, whose stream the kernels ask for, by a library without contents: torch may lack it
        here."""
        stand_in = build / "libtorch_cuda.so"
        self.spawn(
            [str(compiler()), "-shared", "-x", "c", os.devnull, f"-Wl,-soname,{stand_in.name}", "-o", str(stand_in)]
        )
        hidden = "-Xlinker=--exclude-libs=ALL,--no-as-needed"  # of the CUDA runtime, of which torch has one of its own
        return ["-cudart=static", hidden, f"-L{build}", "-ltorch_cuda"]


class PythonIndependentWheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            name,
            sources=sorted(map(str, Path("csrc").glob(sources))),
            depends=sorted(map(str, [*Path("csrc").rglob("*.h"), *Path("csrc").rglob("*.cuh")])),
        )
        for name, sources in ((CPU, "cpu/*.cpp"), (CUDA, "cuda/*.cu"))
    ],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": PythonIndependentWheel},
)
