# SPDX-License-Identifier: Apache-2.0
"""The work of one launch of a Triton kernel, per element of the activations, from its TTIR and its machine code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import roofline
from listing import Listing, matrix_flops
from program import TAKEN, Program, SourceLoop
from torch import Tensor

SIGNATURE = re.compile(r"tt\.func public .*")


class Launch(NamedTuple):
    """A launch of a kernel: its name and binary, the arguments by name, and the number of programs per dimension."""

    kernel: str
    binary: Any
    arguments: dict[str, Any]
    grid: tuple[int, ...]

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Yield the run-time arguments, with the elements of tuples, by their names in TTIR.

        The order identifies an argument, because the second element of `a` is "a.channels" in new versions of Triton
        and "a_0" in old ones.
        """
        signature = SIGNATURE.search(self.binary.asm["ttir"])
        assert signature is not None, "the TTIR has no function"
        types = self.binary.src.signature
        values = [leaf for name, value in self.arguments.items() for leaf in _leaves(value, types[name])]
        yield from zip(re.findall(r"%([\w.]+): ", signature[0]), values, strict=True)


def _leaves(value: Any, kind: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for item, item_kind in zip(value, kind, strict=True):
            yield from _leaves(item, item_kind)
    elif kind != "constexpr":
        yield value


def work(launch: Launch, code: str, device: str, elements: int) -> dict[str, float]:
    """Return what the launch needs per element of the activations, to three digits.

    "instructions" counts the instructions that warps issue, on AMD GPUs without those of the scalar unit.
    "matrix_flops" counts operations of the matrix units in the unit of `listing.matrix_flops`. "l2" counts the bytes
    that loads and stores request, which is an upper bound, because some loads hit the L1 cache. "memory" counts the
    bytes of each tensor that the kernel uses, once.

    Args:
        launch: The launch.
        code: Machine code of the kernel, with source lines.
        device: Name of the device in `roofline.DEVICES`.
        elements: Number of elements of the activations, or of the result of blend.

    Raises:
        ValueError: If a loop of the source is not in the machine code.
    """
    listing = Listing(code)
    numbers = {name: value for name, value in launch.leaves() if isinstance(value, int)}
    program = Program(launch.binary.asm["ttir"], numbers, launch.grid, TAKEN.get(launch.kernel, 0.0))
    executions = listing.executions(
        iterations(listing, program.loops), lambda i: program.shares.get(listing.code[i].lines, 1.0)
    )
    scale = 1 / elements
    for size in launch.grid:
        scale *= size
    warps = launch.binary.metadata.num_warps * scale
    issued = warps * listing.total(executions, lambda text: 0 if text.startswith("s_") else 1)
    mma_sync = roofline.DEVICES[device].mma_sync
    flops = warps * listing.total(executions, lambda text: matrix_flops(text, mma_sync))
    if any(listing.code[i].begins("UTC") and "MMA" in listing.code[i].name for i in executions):
        flops = scale * program.flops
    amounts = (issued, flops, scale * program.bytes, _memory(launch, program.used) / elements)
    return {name: float(f"{amount:.3g}") for name, amount in zip(roofline.RESOURCES, amounts, strict=True)}


def iterations(listing: Listing, loops: Sequence[SourceLoop]) -> list[float]:
    """Return the iterations per program of each loop of the machine code.

    Loops of the machine code are in the order of the source. If the compiler unrolled a loop, so that there are several
    copies, loops are identified by their source lines. All iterations count for the smallest copy, which is the
    remainder loop and has one iteration of the source per iteration.

    Raises:
        ValueError: If a loop of the source is not in the machine code.
    """
    if [loop.depth for loop in listing.loops] == [loop.depth for loop in loops]:
        return [loop.iterations for loop in loops]
    copies: dict[int, list[int]] = {}
    for index, loop in enumerate(listing.loops):
        lines = [listing.code[i].lines for i in listing.own(loop)]
        votes = [sum(line in source.lines for line in lines) for source in loops]
        copies.setdefault(votes.index(max(votes)) if votes else -1, []).append(index)
    if copies.keys() != set(range(len(loops))):
        missing = [sorted(source.lines) for index, source in enumerate(loops) if index not in copies]
        raise ValueError(
            f"the source has {len(loops)} loops and the machine code has {len(listing.loops)}. Missing are loops with "
            f"the lines {missing}. Did the compiler unroll a loop of constant length? Write it with tl.static_range."
        )
    result = [0.0] * len(listing.loops)
    for source, indices in copies.items():
        result[min(indices, key=lambda index: len(listing.loops[index].body))] = loops[source].iterations
    return result


def _memory(launch: Launch, used: set[str]) -> int:
    """Return the bytes of the tensors that the kernel uses."""
    tensors = {}
    for name, value in launch.leaves():
        if isinstance(value, Tensor) and name in used:
            tensors[value.untyped_storage()._cdata, value.storage_offset(), value.shape] = value.nbytes
    return sum(tensors.values())
