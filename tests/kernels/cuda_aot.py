# SPDX-License-Identifier: Apache-2.0
"""Compile the CUDA kernels without a GPU, with warnings as errors, and check the resources that the binaries need.

`make cuda` fails if a kernel spills, if matrix instructions or wide loads are missing, if generic loads or stores show
that the compiler does not see which memory an array lies in, or if the table tests/kernels/cuda_resources.json differs
from the binaries. For blend, contribution and soft_contribution it also fails if the work of the kernels
(`cuda_work.py`) differs from tests/kernels/cuda_work.json, or if a prediction of benchmarks/roofline.py differs from
tests/kernels/cuda_predictions.json. This command writes the three files::

    PYTHONPATH=.:benchmarks python tests/kernels/cuda_aot.py --update

It needs nvcc. The headers come from the torch of `--python`, which may be built with or without CUDA.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import cuda_work
import roofline
from cuda_counts import kernel_name, output
from cuda_work import TOOLS
from listing import Listing
from triton_aot import MATRIX, WIDE_LOADS, differences, write

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "cuda"
TABLE = Path(__file__).with_name("cuda_resources.json")
DEVICES = ("sm_80", "sm_90", "sm_100")
LABELLING = ("assign_kernel", "lloyd_kernel", "assign_moments_kernel")
COPYING = ("moments_kernel", "pool_kernel")
LOCAL = re.compile(r"(LDL|STL)\b")
ASYNCHRONOUS = re.compile(r"LDGSTS\b")
GENERIC = re.compile(r"(LD|ST|ATOM|RED)\.E\b")  # LDG, LDS, STG, STS and so on name the memory
# Generic accesses that a kernel may have. In nine kernels ptxas joins the code for two kinds of memory.
ALLOWED_GENERIC = {"sm_80": 7, "sm_90": 0, "sm_100": 4}
BULK_LOADS = re.compile(r"UTMALDG\b")
GROUP_ENDS = re.compile(r"HGMMA.*\bgsb0")  # products of a warp group that end a group of products
PRODUCTS_PER_GROUP = 4  # of the Hopper kernel


def build(python: str) -> Path:
    """Build the library by setup.py with this Python; return its path."""
    # Source lines do not change the instructions. cuda_emulation.py compiles the code of the host with optimisation.
    flags = "-Werror=all-warnings -Xcompiler=-Werror,-O0 -lineinfo"
    environment = {**os.environ, "STYLEFAST_CPU": "0", "STYLEFAST_CUDA": "1", "NVCC_APPEND_FLAGS": flags}
    command = ["setup.py", "-q", "build_ext", "--build-temp", str(BUILD), "--build-lib", str(BUILD)]
    subprocess.run([python, *command], cwd=ROOT, env=environment, check=True)
    return BUILD / "stylefast" / "backends" / "libstylefast_cuda.so"


def objects() -> Iterator[Path]:
    """Yield the object files of the sources. The folder can also hold those of sources that are gone."""
    for source in sorted((ROOT / "csrc" / "cuda").rglob("*.cu")):
        yield from BUILD.rglob(f"{source.parent.name}-{source.stem}.o")


def needs(usage: str, listings: Mapping[str, Listing]) -> dict[str, dict[str, int]]:
    """Return the resources that every kernel needs.

    "registers" counts per thread and "shared" is in bytes. "spills" adds up the bytes of stack and local memory and the
    instructions that access local memory. "matrix" counts matrix instructions, "wide_loads" loads of 16 bytes,
    "asynchronous" asynchronous copies to shared memory, and "generic" loads and stores whose address may lie in any
    memory. "in_loops" counts the instructions inside loops, once each. For kernels with matrix products of warp groups,
    "group_ends" counts the products that end a group, and "bulk_loads" the loads of tensor boxes.

    Args:
        usage: Output of `cuobjdump -res-usage`.
        listings: The machine code of the kernels, by "device kernel".
    """
    resources = {}
    for device, part in re.findall(r"\barch = (sm_\d+)(.*?)(?=\barch = |\Z)", usage, re.S):
        rows = re.findall(r"\bFunction (\w+):\s*(.*)", part)
        names = output("c++filt", *(mangled for mangled, _ in rows)).splitlines() if rows else []
        for demangled, (_, row) in zip(names, rows, strict=True):
            name = f"{device} {kernel_name(demangled)}"
            fields = {field: int(value) for field, value in re.findall(r"\b([A-Z]+):(\d+)", row)}
            resources[name] = {"registers": fields["REG"], "shared": fields["SHARED"], **counts(listings[name])}
            resources[name]["spills"] += fields["STACK"] + fields["LOCAL"]
    return dict(sorted(resources.items()))


def counts(listing: Listing) -> dict[str, int]:
    """Return the resources of a kernel that are counted in its machine code."""
    names = Counter(instruction.name for instruction in listing.code)

    def count(pattern: re.Pattern[str]) -> int:
        return sum(times for name, times in names.items() if pattern.match(name))

    result = {
        "spills": count(LOCAL),
        "matrix": count(MATRIX),
        "wide_loads": count(WIDE_LOADS),
        "asynchronous": count(ASYNCHRONOUS),
        "generic": count(GENERIC),
        "in_loops": len(frozenset().union(*(loop.body for loop in listing.loops))),
    }
    if group_ends := sum(GROUP_ENDS.match(instruction.text) is not None for instruction in listing.code):
        result |= {"group_ends": group_ends, "bulk_loads": count(BULK_LOADS)}
    return result


def faults(resources: dict[str, dict[str, int]]) -> list[str]:
    """Return the faults that can be found without the table.

    They are devices without kernels, spills, generic loads or stores, missing matrix instructions, asynchronous copies
    or loads of 16 bytes, and matrix products of the Hopper kernel that wait for each other. Whether sums lie in shared
    or in global memory is a template parameter, so that few kernels need generic accesses.
    """
    devices = {name.split()[0] for name in resources}
    messages = [f"{device}: no kernels" for device in DEVICES if device not in devices]
    for name, need in resources.items():
        kernel, arguments = (*name.split(maxsplit=1)[1].rstrip(">").split("<"), "")[:2]
        if need["spills"] > 0:
            messages.append(f"{name}: touches local memory ({need['spills']} bytes and instructions)")
        if need["generic"] > ALLOWED_GENERIC[name.split()[0]]:
            messages.append(f"{name}: has {need['generic']} generic loads and stores")
        if kernel in COPYING and need["asynchronous"] == 0:
            messages.append(f"{name}: has no asynchronous copy")
        if kernel in LABELLING and arguments in ("half, true", "bfloat16, true") and need["matrix"] == 0:
            messages.append(f"{name}: has no matrix instruction")
        if name.startswith("sm_90 hopper_lloyd_kernel"):
            if need.get("bulk_loads", 0) == 0 or need["matrix"] == 0:
                messages.append(f"{name}: has no bulk load or no matrix instruction")
            if need.get("group_ends", 0) * PRODUCTS_PER_GROUP > need["matrix"]:
                messages.append(f"{name}: waits for every matrix instruction: ptxas has serialized them")
        reads_tiles = kernel in (*LABELLING, "moments_kernel", "soft_kernel", "statistics_kernel")
        if (reads_tiles or (kernel == "blend_kernel" and arguments.endswith("true"))) and need["wide_loads"] == 0:
            messages.append(f"{name}: has no load of 16 bytes")
    return messages


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--update", action="store_true", help="Write the table.")
    parser.add_argument("--python", default=sys.executable, help="Python with the torch to compile against.")
    options = parser.parse_args(arguments)
    library = build(options.python)
    listings = {name: code for unit in objects() for name, code in cuda_work.listings(unit)}
    resources = needs(output(str(TOOLS / "cuobjdump"), "-res-usage", str(library)), listings)
    work = cuda_work.table(listings, resources)
    messages, predictions = faults(resources), roofline.predictions(work)
    if options.update:
        for path, rows in ((TABLE, resources), (roofline.CUDA_TABLE, work), (roofline.CUDA_PREDICTIONS, predictions)):
            write(path, rows)
    else:
        messages += differences(resources, json.loads(TABLE.read_text()))
        messages += differences(work, json.loads(roofline.CUDA_TABLE.read_text()))
        messages += roofline.changes(predictions, json.loads(roofline.CUDA_PREDICTIONS.read_text()))
    print("\n".join([*messages, f"{len(resources)} kernels compiled, {len(messages)} faults"]))
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
