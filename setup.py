# SPDX-License-Identifier: Apache-2.0
"""Build libstylefast_cpu.so and libstylefast_cuda.so on PyTorch's stable ABI.

Each library is one binary for torch >= 2.10 and any Python. The build depends on the toolchains and the environment,
never on the machine's processor or GPU. Without a C++ compiler, the package is installed without the libraries and uses
its `reference` backend on the CPU. Environment variables:

STYLEFAST_CPU=1|0         whether to build the CPU kernels
STYLEFAST_CUDA=auto|0|1   whether to build the CUDA kernels; auto: if torch is built for CUDA and nvcc is found
TORCH_CUDA_ARCH_LIST      compute capabilities to compile for, such as "8.0 9.0a+PTX"; those below 8.0 are ignored
CXX, CUDACXX, CUDA_HOME   C++ compiler, nvcc, and the folder whose bin/ contains nvcc
CXXFLAGS                  additional options of the C++ compiler
"""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CPU, CUDA = "stylefast.backends.libstylefast_cpu", "stylefast.backends.libstylefast_cuda"

FLAGS = [
    "-std=c++17",
    "-O3",
    "-ffp-contract=fast",  # a * b + c is rounded once where the instruction set can do so
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp-simd",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-maybe-uninitialized",  # GCC 12 warns wrongly about its own intrinsics and shared_ptr
    "-Wno-psabi",
    "-Wno-unknown-pragmas",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
]


CUDA_FLAGS = [
    "-std=c++17",
    "-O3",
    "--threads=0",  # compiles the architectures in parallel
    "--expt-relaxed-constexpr",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wno-maybe-uninitialized,-Wno-psabi",
    "-DUSE_CUDA",
    FLAGS[-1],
]
ARCHITECTURES = ("8.0", "9.0", "10.0")


def first_installed(*commands: str | None) -> str | None:
    return next((command for command in commands if command and shutil.which(command)), None)


def compiler() -> str | None:
    return first_installed(os.environ.get("CXX"), "g++", "clang++", "c++")


def nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    return first_installed(os.environ.get("CUDACXX"), home and os.path.join(home, "bin", "nvcc"), "nvcc")


def files(name: str) -> list[str]:
    """Return the sources and headers of a library, relative to the root."""
    folders = ("common", "cpu" if name == CPU else "cuda")
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / "csrc" / folder).rglob("*.*"))


def source_id(name: str) -> str:
    """Return the SHA-1 of setup.py and the sources of a library, which becomes the ELF build id of the library.

    It does not cover the toolchain and the architectures.
    """
    texts = [f"{path}\0".encode() + (ROOT / path).read_bytes() for path in ["setup.py", *files(name)]]
    return hashlib.sha1(b"\0".join(texts)).hexdigest()


def architectures(supported: list[str]) -> list[str]:
    """Return the -gencode options of nvcc.

    They are for TORCH_CUDA_ARCH_LIST or, if it is unset, for those of ARCHITECTURES that nvcc supports. Code for 9.0 is
    code for 9.0a, which every GPU of 9.0 runs; only PTX for 9.0 works on later GPUs, too.

    Args:
        supported: Architectures that nvcc supports, such as "sm_80".

    Raises:
        SystemExit: If TORCH_CUDA_ARCH_LIST is malformed or has no compute capability of at least 8.0, or if it is unset
            and nvcc supports none of ARCHITECTURES.
    """
    default = " ".join(item for item in ARCHITECTURES if f"sm_{item.replace('.', '')}" in supported) + "+PTX"
    if default == "+PTX" and not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        raise SystemExit(f"nvcc supports none of the compute capabilities {', '.join(ARCHITECTURES)}")
    options = []
    for item in (os.environ.get("TORCH_CUDA_ARCH_LIST") or default).replace(";", " ").split():
        if not (match := re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", item)):
            raise SystemExit(f'TORCH_CUDA_ARCH_LIST must look like "8.0 9.0a+PTX", got {item!r}')
        if int(match[1]) >= 8:
            number = match[1] + match[2]
            binary = "90a" if number == "90" else number
            options.append(f"-gencode=arch=compute_{binary},code=sm_{binary}")
            if match[3]:
                options.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    if not options:
        raise SystemExit("TORCH_CUDA_ARCH_LIST must name a compute capability of at least 8.0")
    return options


def wants_cuda() -> bool:
    import torch

    choice = os.environ.get("STYLEFAST_CUDA") or "auto"
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
        if (choice := os.environ.get("STYLEFAST_CPU") or "1") not in ("0", "1"):
            raise SystemExit(f"STYLEFAST_CPU must be 0 or 1, got {choice}")
        wants_cpu = choice == "1"
        if compiler() is None and wants_cpu:
            print("stylefast: no C++ compiler found; installing without CPU kernels", file=sys.stderr)
        is_built = {CPU: compiler() is not None and wants_cpu, CUDA: wants_cuda()}
        self.extensions = [extension for extension in self.extensions if is_built[extension.name]]
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
            flags = [*FLAGS, *shlex.split(os.environ.get("CXXFLAGS", "")), "-fPIC", f"-isystem{root / 'include'}"]
            compile_command, link_command, linker_prefix = [str(compiler()), *flags], [str(compiler())], "-Wl,"
        else:
            compile_command = [*self.nvcc_command(), *CUDA_FLAGS, *includes]
            link_command = [*self.nvcc_command(), *self.torch_cuda_options(build)]
            linker_prefix = "-Xlinker="
        if sys.platform == "linux":
            link_command.append(f"{linker_prefix}--build-id=0x{source_id(ext.name)}")

        def compile_one(source: str) -> str:
            unit = build / (Path(source).parent.name + "-" + Path(source).stem + ".o")
            self.spawn([*compile_command, "-c", source, "-o", str(unit)])
            return str(unit)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            units = list(pool.map(compile_one, ext.sources))
        self.spawn([*link_command, "-shared", *units, *libraries, "-o", target])

    def nvcc_command(self) -> list[str]:
        """Return the nvcc command with its host compiler and architectures."""
        supported = subprocess.check_output([str(nvcc()), "--list-gpu-code"], text=True).split()
        return [str(nvcc()), f"-ccbin={compiler()}", *architectures(supported)]

    def torch_cuda_options(self, build: Path) -> list[str]:
        """Return options that link against an empty stand-in for libtorch_cuda.so.

        The installed torch may be a CPU build without that library.
        """
        stand_in = build / "libtorch_cuda.so"
        self.spawn(
            [str(compiler()), "-shared", "-x", "c", os.devnull, f"-Wl,-soname,{stand_in.name}", "-o", str(stand_in)]
        )
        hide_runtime = "-Xlinker=--exclude-libs=ALL,--no-as-needed"  # hides the CUDA runtime, because torch has its own
        return ["-cudart=static", hide_runtime, f"-L{build}", "-ltorch_cuda"]


class PythonIndependentWheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


if __name__ == "__main__":
    setup(
        ext_modules=[
            Extension(name, [path for path in files(name) if path.endswith((".cpp", ".cu"))], depends=files(name))
            for name in (CPU, CUDA)
        ],
        cmdclass={"build_ext": BuildLibraries, "bdist_wheel": PythonIndependentWheel},
    )
