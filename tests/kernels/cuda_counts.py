# SPDX-License-Identifier: Apache-2.0
"""Count how often warps execute each line of the CUDA kernels, in the emulation of cuda_emulation.py.

The compiler inserts a call at the beginning of every basic block, and counting.cpp counts these calls per warp. Two
blocks of every launch run and stand for all blocks, also for those at the edges. Activations and styles are not
initialised, because no branch of the counted kernels depends on them. Labels are random, and rows of edits are those of
the workload.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from cuda_emulation import build, load
from gpu import workloads
from gpu.workloads import GpuWorkload
from source import Block

FLAGS = ("-O0", "-g", "-fsanitize-coverage=trace-pc")
CALL = 5  # bytes of the instruction that calls the counter
MAX_BLOCKS = 2  # that run per launch


class CountedLaunch(NamedTuple):
    """A launch: its kernel, its size, and its basic blocks with the executions by all warps."""

    kernel: str
    blocks: int
    threads: int
    code: list[Block]


class Emulator:
    """The emulation with counts. A process can have one, because it registers the ops of the backend `cuda`."""

    def __init__(self) -> None:
        self._library = str(build("counted", *FLAGS))
        self._on_cpu: ctypes.CDLL = load(self._library)
        symbols = [line.split(None, 2) for line in output("nm", "-C", "--defined-only", self._library).splitlines()]
        self._names = {int(address, 16): name for address, kind, name in symbols if kind in "tTwW"}
        self._blocks = self._all_blocks()

    def _all_blocks(self) -> dict[int, Block]:
        """Return all basic blocks by the address of the call that counts them, in the order of the code."""
        lines: dict[int, set[tuple[str, int]]] = {}
        functions: dict[int, int] = {}
        function, own, place = 0, set[tuple[str, int]](), ("", 0)
        for line in output("objdump", "-dl", "--no-show-raw-insn", self._library).splitlines():
            if (start := re.match(r"([0-9a-f]+) <.*>:$", line)) is not None:
                function, own = int(start[1], 16), set()
            elif (marker := re.match(r"/.*?([^/]+):(\d+)(?: \(discriminator \d+\))?$", line)) is not None:
                place = marker[1], int(marker[2])
            elif (call := re.match(r" *([0-9a-f]+):\tcall .*<__sanitizer_cov_trace_pc>", line)) is not None:
                address, own = int(call[1], 16), set()
                lines[address], functions[address] = own, function
            elif line.startswith(" "):
                own.add(place)
        return {address: Block(frozenset(own), functions[address], 0.0) for address, own in lines.items()}

    def count(
        self, workload: GpuWorkload, processors: int, shared: int, resources: Mapping[str, Mapping[str, int]]
    ) -> list[CountedLaunch]:
        """Return the launches of a workload on a device.

        Args:
            workload: The workload.
            processors: Number of processors of the device.
            shared: Bytes of shared memory that a block can have.
            resources: Resources of the kernels. The registers of the first kernel of the call limit the number of
                blocks that run at the same time, on which the sizes of the launches depend.
        """
        self._on_cpu.on_cpu_device(processors, shared)
        arguments = inputs(workload)
        self._on_cpu.on_cpu_sample(0, 0)
        first = self._run(workload, arguments)[0]
        self._on_cpu.on_cpu_sample(MAX_BLOCKS, resources[first.kernel]["registers"])
        return self._run(workload, arguments)

    def _run(self, workload: GpuWorkload, arguments: list[Any]) -> list[CountedLaunch]:
        workload.op.cells["cuda"](*arguments)
        with tempfile.NamedTemporaryFile("r") as file:
            self._on_cpu.on_cpu_write_counts(file.name.encode())
            text = file.read()
        return [self._launch(part) for part in text.split("launch ")[1:]]

    def _launch(self, text: str) -> CountedLaunch:
        head, *rows = text.splitlines()
        address, blocks, threads = head.split()
        executions = {int(address, 16) - CALL: float(times) for address, times in map(str.split, rows)}
        functions = {self._blocks[call].function for call in executions}
        found = [
            block._replace(executions=executions.get(call, 0.0))
            for call, block in self._blocks.items()
            if block.function in functions
        ]
        return CountedLaunch(kernel_name(self._names[int(address, 16)]), int(blocks), int(threads), found)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def kernel_name(demangled: str) -> str:
    """Return a name such as "moments_kernel<bfloat16, true, 2>"."""
    match = re.search(r"(\w+_kernel)(<[^(]*>)?\(", demangled)
    return demangled if match is None else (match[1] + (match[2] or "")).replace("stylefast::", "")


def inputs(workload: GpuWorkload) -> list[Any]:
    """Return the arguments of a workload as CPU tensors. Only labels and edits have values."""
    arguments = workload.make("meta")
    for name, value in arguments.items():
        if name == "labels":
            generator = torch.Generator().manual_seed(0)
            arguments[name] = torch.randint(int(workload.k or 1), value.shape, dtype=value.dtype, generator=generator)
        elif name == "edits" and value is not None:
            rows = (workloads.TARGETS, workloads.REFERENCES, workloads.PARTS)
            arguments[name] = torch.cartesian_prod(*map(torch.arange, rows))
        elif isinstance(value, torch.Tensor):
            arguments[name] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    return list(arguments.values())
