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
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cuda_work
import roofline
import triton
from listing import Listing
from triton_aot import MATRIX, WIDE_LOADS, differences, write

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "cuda"
TABLE = Path(__file__).with_name("cuda_resources.json")
DEVICES = ("sm_80", "sm_90", "sm_100")
LABELLING = ("assign_kernel", "lloyd_kernel", "assign_moments_kernel")
COPYING = ("moments_kernel", "pool_kernel")
LOCAL = re.compile(r"\b(LDL|STL)\b")
ASYNCHRONOUS = re.compile(r"\bLDGSTS\b")
GENERIC = re.compile(r"\b(LD|ST|ATOM|RED)\.E\b")  # LDG, LDS, STG, STS and so on name the memory
# Generic accesses that a kernel may have. In nine kernels ptxas joins the code for two kinds of memory.
ALLOWED_GENERIC = {"sm_80": 7, "sm_90": 0, "sm_100": 4}
GROUP_ENDS = re.compile(r"\bHGMMA[^;]*\bgsb0")  # products of a warp group that end a group of products
PRODUCTS_PER_GROUP = 4  # of the Hopper kernel


def build(python: str) -> Path:
    """Build the library by setup.py with this Python; return its path."""
    flags = "-Werror=all-warnings -Xcompiler=-Werror -lineinfo"  # source lines do not change the instructions
    environment = {**os.environ, "STYLEFAST_CPU": "0", "STYLEFAST_CUDA": "1", "NVCC_APPEND_FLAGS": flags}
    command = ["setup.py", "-q", "build_ext", "--build-temp", str(BUILD), "--build-lib", str(BUILD)]
    subprocess.run([python, *command], cwd=ROOT, env=environment, check=True)
    return BUILD / "stylefast" / "backends" / "libstylefast_cuda.so"


def cuobjdump(library: Path, option: str) -> str:
    """Return the output of the toolkit's cuobjdump, or of Triton's, without the bytes of the instructions."""
    tool = shutil.which("cuobjdump") or Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    text = subprocess.run([tool, option, library], check=True, capture_output=True, text=True).stdout
    return "\n".join(line.partition("/* 0x")[0].strip() for line in text.splitlines())


def sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name ("device mangled_name") and the text of every kernel of every device."""
    parts = re.split(r"\barch = (sm_\d+)a?", text)[1:]
    for device, part in zip(parts[::2], parts[1::2], strict=True):
        pieces = re.split(r"\bFunction\s*:?\s+(\w+)", part)[1:]
        for mangled, body in zip(pieces[::2], pieces[1::2], strict=True):
            yield f"{device} {mangled}", body


def readable(names: list[str]) -> dict[str, str]:
    """Return the readable names of kernels, such as "assign_kernel<half, true>", by their mangled names."""
    text = subprocess.run(["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True).stdout
    matches = (re.search(r"(\w+_kernel)(<[^(]*>)?\(", line) for line in text.splitlines())
    return {
        name: (match[1] + (match[2] or "")).replace("stylefast::", "")
        for name, match in zip(names, matches, strict=True)
        if match is not None
    }


def needs(usage: str, sass: str) -> dict[str, dict[str, int]]:
    """Return the resources that every kernel needs.

    "registers" counts per thread and "shared" is in bytes. "spills" adds up the bytes of stack and local memory and the
    instructions that access local memory. "matrix" counts matrix instructions, "wide_loads" loads of 16 bytes,
    "asynchronous" asynchronous copies to shared memory, and "generic" loads and stores whose address may lie in any
    memory. "in_loops" counts the instructions inside loops, once each. For kernels with matrix products of warp groups,
    "group_ends" counts the products that end a group, and "bulk_loads" the loads of tensor boxes.
    """
    code = dict(sections(sass))
    names = readable(sorted({name.split()[1] for name in code}))
    resources = {}
    for name, text in sections(usage):
        device, mangled = name.split()
        fields = {field: int(value) for field, value in re.findall(r"\b([A-Z]+):(\d+)", text)}
        body = code[name]
        resources[f"{device} {names[mangled]}"] = {
            "registers": fields["REG"],
            "shared": fields["SHARED"],
            "spills": fields["STACK"] + fields["LOCAL"] + len(LOCAL.findall(body)),
            "matrix": len(MATRIX.findall(body)),
            "wide_loads": len(WIDE_LOADS.findall(body)),
            "asynchronous": len(ASYNCHRONOUS.findall(body)),
            "generic": len(GENERIC.findall(body)),
            "in_loops": len(frozenset().union(*(loop.body for loop in Listing(body).loops))),
        }
        if GROUP_ENDS.search(body):
            resources[f"{device} {names[mangled]}"] |= {
                "group_ends": len(GROUP_ENDS.findall(body)),
                "bulk_loads": len(re.findall(r"\bUTMALDG\b", body)),
            }
    return dict(sorted(resources.items()))


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
    resources = needs(cuobjdump(library, "-res-usage"), cuobjdump(library, "-sass"))
    work = cuda_work.table(BUILD, resources)
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
