# SPDX-License-Identifier: Apache-2.0
"""Loading of the compiled libraries, which then fill the `cpu` and `cuda` cells of the op table themselves."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..core.private_torch import has_memory

CPU_LIBRARY = Path(__file__).with_name("libstylefast_cpu.so")
CUDA_LIBRARY = CPU_LIBRARY.with_name("libstylefast_cuda.so")
ROOT = Path(__file__).resolve().parents[2]  # the folder of the package, which is a checkout or an installation
CAPABILITY = (8, 0)  # lowest compute capability that the CUDA kernels are compiled for


@cache
def cpu_reason() -> str | None:
    """Load the CPU kernels. Return None, or the reason why they cannot be loaded, as one sentence."""
    if not CPU_LIBRARY.exists():
        return _not_built("cpu", "a C++17 compiler")
    return _load("cpu", CPU_LIBRARY)


@cache
def cuda_reason() -> str | None:
    """Load the CUDA kernels. Return None, or the reason why they or a GPU are not available, as one sentence."""
    if torch.version.cuda is None:
        return f"backend 'cuda' needs a torch built for CUDA, got {torch.__version__}"
    if not CUDA_LIBRARY.exists():
        return _not_built("cuda", "the CUDA toolkit (nvcc)")
    if not torch.cuda.is_available():
        return "backend 'cuda' needs an NVIDIA GPU that torch can use"
    return _load("cuda", CUDA_LIBRARY)


@cache
def cuda_supports(device: torch.device) -> str | None:
    """Return None if the CUDA kernels are compiled for this GPU, or else the reason, as one sentence."""
    capability = torch.cuda.get_device_capability(device)
    if capability >= CAPABILITY:
        return None
    required, actual = (".".join(map(str, version)) for version in (CAPABILITY, capability))
    return f"backend 'cuda' needs a GPU of compute capability {required} or later, {device} has {actual}"


def _not_built(name: str, tool: str) -> str:
    """Return the reason of a missing library. A source tree on the path hides an installed package with libraries."""
    if (ROOT / "setup.py").is_file():
        remedy = f"install {tool}, then run `pip install --no-build-isolation -e .` there"
        return f"backend '{name}' was not built in the checkout {ROOT}, which is used here: {remedy}"
    return f"backend '{name}' was not built: install {tool}, then install stylefast again"


def _load(name: str, library: Path) -> str | None:
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"backend '{name}' cannot be loaded with torch {torch.__version__}: {error}"
    return None


def instruction_set() -> str | None:
    """Return the instruction set that the CPU kernels use: "avx512", "avx2" or "portable"; None without CPU kernels.

    The environment variable STYLEFAST_ISA forces one.

    Raises:
        ValueError: If the variable names no instruction set, or one that the processor lacks.
    """
    if cpu_reason() is not None:
        return None
    try:
        return torch.ops.stylefast.instruction_set()
    except RuntimeError as error:
        raise ValueError(str(error)[str(error).index("STYLEFAST_ISA") :].splitlines()[0]) from None


def out_of_range(index: Tensor, *counts: int) -> tuple[list[int], list[int]] | None:
    """Return the lowest and the highest index per column unless `0 <= index[.., j] < counts[j]` for all j, else None.

    Values that are not in the memory of the CPU are not checked.

    Args:
        index: Integers of shape [.., n].
        counts: The n numbers of rows.
    """
    if not (index.is_cpu and has_memory(index) and index.numel()):
        return None
    # A trace refuses ops that return no tensor.
    is_traced = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if not is_traced and cpu_reason() is None and torch.ops.stylefast.in_range(index, counts):
        return None
    low, high = (limits.tolist() for limits in index.reshape(-1, len(counts)).aminmax(dim=0))
    is_valid = min(low) >= 0 and all(last < count for last, count in zip(high, counts, strict=True))
    return None if is_valid else (low, high)
