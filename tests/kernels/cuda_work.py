# SPDX-License-Identifier: Apache-2.0
"""The work of the CUDA kernels of blend, contribution and soft_contribution per element.

tests/kernels/cuda_aot.py compares it with tests/kernels/cuda_work.json, and benchmarks/roofline.py predicts times.

Instructions come from the machine code (`listing.py`). The emulation of the kernels (`cuda_counts.py`, `source.py`)
counts how often warps execute the loops and branches of the source. Source lines identify the loops and branches of the
machine code. These rules are added to those of `listing.py`:

- The first block of a loop counts once per iteration. Other blocks count as often as the branch of the source to which
  most of their instructions belong, and at most as often as the blocks that lead to them.
- If the compiler unrolled a loop, so that there are several copies, all iterations count for the smallest copy.
- A branch on one line counts as taken each time, except for the functions that it calls.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import roofline
import triton
from cuda_counts import CountedLaunch, Emulator, kernel_name, output
from gpu.workloads import GPU_WORKLOADS
from listing import Listing, matrix_flops
from source import Counts, Scope, scopes
from tqdm import tqdm
from triton_aot import DEVICES as DEVICES_TO_COMPILE_FOR

ROOT = Path(__file__).resolve().parents[2]
OPS = ("contribution", "soft_contribution", "blend")
DEVICES = {name: device for name, device in DEVICES_TO_COMPILE_FOR.items() if name.startswith("sm_")}
WORKLOADS = tuple(workload for workload in GPU_WORKLOADS if workload.op.name in OPS)
ACCESS = re.compile(r"(?:LDG|STG|LDGSTS|LD|ST|RED|ATOMG)\.(?P<options>\S+)")
WIDTH = re.compile(r"^[US]?(8|16|64|128|256)$")
STEP = re.compile(
    r"(?:U?IADD3|VIADD) (?P<register>U?R\d+)(?:, U?P\w+)*, (?P=register)(?:\.reuse)?, 0x(?P<step>[0-9a-f]+)\b"
)
MAX_JOINED = 16  # larger steps of a register are those of an address
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def table(codes: Mapping[str, Listing], resources: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, float]]:
    """Return the work of every launch of WORKLOADS, by "device kernel of op workload", to three digits.

    Args:
        codes: Machine code of the kernels with source lines, by "device kernel".
        resources: Resources of the kernels, by "device kernel".
    """
    emulator, rows = Emulator(), {}
    for device, properties in DEVICES.items():
        for workload in tqdm(WORKLOADS, desc=device, disable=None):
            call = f"{workload.op.name} {workload.name}"
            elements, least_bytes = roofline.sizes()[call]
            of_device = {name.split(maxsplit=1)[1]: need for name, need in resources.items() if name.startswith(device)}
            launches = emulator.count(workload, properties.processors, properties.shared, of_device)
            for launch in launches:
                code, mma_sync = codes[f"{device} {launch.kernel}"], roofline.DEVICES[device].mma_sync
                row = work(code, launch, elements, mma_sync)
                if launch is launches[0]:
                    row["memory"] = least_bytes / elements
                name = f"{device} {launch.kernel.partition('<')[0]} of {call}"
                assert name not in rows, f"{name} is launched twice"
                rows[name] = {resource: float(f"{amount:.3g}") for resource, amount in row.items()}
    return rows


def listings(unit: Path) -> Iterator[tuple[str, Listing]]:
    """Yield "device kernel" and the machine code of every kernel of an object file that is compiled with -lineinfo."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([TOOLS / "cuobjdump", "-xelf", "all", unit], cwd=folder, check=True, capture_output=True)
        for cubin in sorted(Path(folder).glob("*.cubin")):
            device = re.search(r"sm_\d+", cubin.name)
            text = output(str(TOOLS / "nvdisasm"), "-gi", "-c", str(cubin))
            parts = re.split(r"^//-+ \.text\.", text, flags=re.M)[1:]
            names = output("c++filt", *(part.split()[0] for part in parts)).splitlines() if parts else []
            for name, part in zip(names, parts, strict=True):
                yield f"{device[0] if device else ''} {kernel_name(name)}", Listing(part)


@cache
def sources() -> dict[str, list[Scope]]:
    """Return the scopes of all sources of the kernels, by the name of the file."""
    files = [*(ROOT / "csrc" / "cuda").glob("*.cu*"), *(ROOT / "csrc" / "common").glob("*.h")]
    return {path.name: scopes(path.read_text(), path.name) for path in files}


def work(listing: Listing, launch: CountedLaunch, elements: int, mma_sync: float = 1.0) -> dict[str, float]:
    """Return what a launch needs per element of the activations, or of the result of blend.

    "instructions" counts the instructions that warps issue, and "matrix_flops" what `listing.matrix_flops` returns for
    `mma_sync`. "l2" counts the bytes that loads and stores request if all lanes take part, which is an upper bound.
    "memory" is 0, because the small results of a kernel stay in the L2 cache until the next kernel reads them. For the
    first kernel of a call, `table` replaces it by the least bytes.

    Raises:
        ValueError: If a loop of the machine code is not found in the source.
    """
    warps, counts = launch.blocks * -(-launch.threads // 32), Counts(launch.code, sources())
    assigned = assign(listing, counts)
    around: dict[int, Scope] = {}  # the innermost loop of every instruction in a loop
    for loop, scope in zip(listing.loops, assigned, strict=True):
        around.update(dict.fromkeys(loop.body, scope))
    heads = {min(loop.body) for loop in listing.loops}
    always = {i for block in listing.blocks() if block[0] in heads for i in block}
    executions = listing.executions(
        [times / warps for times in iterations(listing, counts, assigned)],
        lambda i: 1.0 if i in always else counts.share_of(listing.code[i].lines, around.get(i)),
    )
    limit(listing, executions)
    amounts = {
        "instructions": lambda text: 1.0,
        "matrix_flops": lambda text: matrix_flops(text, mma_sync),
        "l2": accessed,
        "memory": lambda text: 0.0,
    }
    scale = warps / elements
    return {name: scale * listing.total(executions, amount) for name, amount in amounts.items()}


def limit(listing: Listing, executions: dict[int, float]) -> None:
    """Limit the executions of every block to those of the blocks before it.

    The compiler moves code of a loop into its branches, where the lines of most instructions can be those of the loop.
    """
    for first, *others in listing.blocks():
        total = sum(executions[i] for i in listing.predecessors[first]) if first else 1.0
        for i in (first, *others):
            executions[i] = min(executions[i], total)


def accessed(text: str) -> float:
    """Return the bytes in global memory that a warp accesses by an instruction."""
    match = ACCESS.match(text)
    if match is None:
        return 0.0
    widths = [width for option in match["options"].split(".") if (width := WIDTH.search(option))]
    return 32.0 * (int(widths[-1][1]) // 8 if widths else 4)


def assign(listing: Listing, counts: Counts) -> list[Scope]:
    """Return the loop of the source for each loop of the machine code.

    Raises:
        ValueError: If there is none.
    """
    assigned: list[Scope] = []
    for index, loop in enumerate(listing.loops):
        outer = [assigned[i] for i in range(index) if loop.body < listing.loops[i].body]
        votes: Counter[Scope] = Counter()
        for i in listing.own(loop):
            inside = counts.loops(listing.code[i].lines)
            while inside and any(scope in inside for scope in outer):
                inside = inside[1:]
            votes.update(inside[:1])
        if not votes:
            raise ValueError(f"no loop of the source is at {listing.code[min(loop.body)].lines}")
        assigned.append(votes.most_common(1)[0][0])
    return assigned


def iterations(listing: Listing, counts: Counts, assigned: list[Scope]) -> list[float]:
    """Return the iterations of all warps, per loop of the machine code."""
    copies: dict[Scope, list[int]] = defaultdict(list)
    for index, scope in enumerate(assigned):
        copies[scope].append(index)
    result = [0.0] * len(assigned)
    for scope, indices in copies.items():
        smallest = min(indices, key=lambda index: len(listing.loops[index].body))
        result[smallest] = counts.iterations(scope) / joined(listing, smallest, scope)
    return result


def joined(listing: Listing, index: int, scope: Scope) -> int:
    """Return how many iterations of the source are one iteration of a loop of the machine code.

    If the loop of the source counts by one, this is the smallest step of a register. An address that replaces the
    counter and advances by at most MAX_JOINED bytes would be taken for it. Otherwise the compiler is assumed to do what
    the source asks for.
    """
    if not scope.by_one:
        return max(1, scope.unroll)
    matches = (STEP.match(listing.code[i].text) for i in listing.own(listing.loops[index]))
    steps = [int(match["step"], 16) for match in matches if match is not None]
    smallest = min((min(step, (1 << 32) - step) for step in steps), default=1)
    return smallest if smallest <= MAX_JOINED else 1
