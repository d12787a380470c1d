# SPDX-License-Identifier: Apache-2.0
"""Machine code of a compiled kernel: instructions, loops, and how often each instruction is executed.

The code is the output of nvdisasm or cuobjdump (NVIDIA), or assembly of LLVM (AMD). Loops are the natural loops of the
control flow: a branch backwards, and everything from which it can be reached without its target.

Rules for code that is not executed each time:

- A block that calls a subroutine is a slow path, for example the division of 64-bit numbers or the square root of a
  denormal number. Neither the block nor the subroutine counts. Some calls of ptxas never return; they are branches.
- A short loop that waits for a barrier counts as one iteration.
- A block whose source lines all belong to a branch of the source counts as often as that branch (`program.py`).
- Every other block of a loop counts in every iteration, and a predicated instruction counts as issued.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

SourceLines = tuple[tuple[str, int], ...]  # file and line of an instruction, then of the calls that were inlined

NVIDIA = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?P<predicate>@!?U?P\w+\s+)?(?P<text>[A-Z][^;]*?)\s*;")
AMD = re.compile(r"\t(?P<predicate>)(?P<text>(?:s|v|ds|global|buffer|flat|scratch)_[^;]*?)\s*(;.*)?$")
LABEL = re.compile(r"(?P<label>[.$\w]+):")
ADDRESS = re.compile(r"\s*/\*0*(?P<address>[0-9a-f]+)\*/")
TARGET = re.compile(r"`\((?P<label>[^)]+)\)$|\b0x0*(?P<address>[0-9a-f]+)$|(?P<local>\.L\w+)$")
INLINED = re.compile(r'(?:File|inlined at) "([^"]*)", line (\d+)')
AMD_LINES = re.compile(r"([\w.]+\.py):(\d+):\d+")
WAITS = re.compile(r"TRYWAIT|NANOSLEEP")
LONGEST_WAIT = 6  # instructions


class Instruction(NamedTuple):
    """An instruction without its predicate."""

    text: str
    predicated: bool
    lines: SourceLines

    @property
    def name(self) -> str:
        return self.text.split(None, 1)[0]

    def begins(self, *prefixes: str) -> bool:
        return self.text.startswith(prefixes)


class Loop(NamedTuple):
    """A loop: the indices of its instructions, and the number of loops around it."""

    body: frozenset[int]
    depth: int


class Listing:
    """The instructions of one kernel.

    Attributes:
        code: All instructions, with those of subroutines.
        successors: Per instruction the indices of the instructions that can follow.
        reached: The indices of the instructions that a kernel can reach, without subroutines.
        loops: The loops in the order of their first instructions.
        predecessors: Per reached instruction the indices of the instructions that can come before it.

    Raises:
        ValueError: If the control flow cannot be followed.
    """

    def __init__(self, text: str) -> None:
        self.code, self._labels = _parse(text)
        self.successors = [self._following(i) for i in range(len(self.code))]
        calls = [i for i, instruction in enumerate(self.code) if instruction.begins("CALL")]
        for i in calls:
            target = self._target(i)
            if target is not None and not self._returns(target):
                self.successors[i] = [target, i + 1] if self.code[i].predicated else [target]
        self._slow = {i for i in calls if self.successors[i] == [i + 1] and not self.code[i].predicated}
        self.reached, latches = self._search()
        self.predecessors: dict[int, list[int]] = {i: [] for i in self.reached}
        for i in self.reached:
            for successor in self.successors[i]:
                self.predecessors[successor].append(i)
        self.loops = self._loops(latches)

    def _target(self, i: int) -> int | None:
        match = TARGET.search(self.code[i].text)
        return None if match is None else self._labels.get(match["label"] or match["address"] or match["local"])

    def _following(self, i: int) -> list[int]:
        instruction = self.code[i]
        following = [i + 1] if i + 1 < len(self.code) else []
        if instruction.begins("EXIT", "RET", "s_endpgm", "s_setpc"):
            return following if instruction.predicated else []
        if instruction.begins("BRX", "JMX"):
            raise ValueError(f"indirect branch: {instruction.text}")
        if not instruction.begins("BRA", "JMP", "s_branch", "s_cbranch"):
            return following
        target = self._target(i)
        if target is None:
            raise ValueError(f"branch to an unknown place: {instruction.text}")
        conditional = instruction.predicated or "," in instruction.text or instruction.begins("s_cbranch")
        return [target, *following] if conditional else [target]

    def _returns(self, start: int) -> bool:
        """Return whether a return instruction can be reached."""
        seen, stack = set(), [start]
        while stack:
            i = stack.pop()
            if i not in seen:
                seen.add(i)
                stack += self.successors[i]
        return any(self.code[i].begins("RET") for i in seen)

    def _search(self) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the reachable instructions, and the branches (from, to) that close loops, by a depth-first search."""
        state, latches = {0: "open"}, []
        stack = [(0, iter(self.successors[0]))]
        while stack:
            i, successors = stack[-1]
            for successor in successors:
                if successor not in state:
                    state[successor] = "open"
                    stack.append((successor, iter(self.successors[successor])))
                    break
                if state[successor] == "open":
                    latches.append((i, successor))
            else:
                state[i] = "closed"
                stack.pop()
        return sorted(state), latches

    def _loops(self, latches: list[tuple[int, int]]) -> list[Loop]:
        bodies: dict[int, set[int]] = {}
        for latch, header in latches:
            body, stack = bodies.setdefault(header, {header}), [latch]
            while stack:
                i = stack.pop()
                if i not in body:
                    body.add(i)
                    stack += self.predecessors[i]
            if 0 in body and header != 0:
                raise ValueError(f"a loop has two entries; one is {self.code[header].text}")
        kept = [frozenset(body) for body in bodies.values() if not self._waits(body)]
        kept.sort(key=lambda body: (min(body), -len(body)))
        return [Loop(body, sum(body < other for other in kept)) for body in kept]

    def own(self, loop: Loop) -> frozenset[int]:
        """Return the instructions of a loop without those of inner loops."""
        return loop.body.difference(*(other.body for other in self.loops if other.body < loop.body))

    def _waits(self, body: set[int]) -> bool:
        return len(body) <= LONGEST_WAIT and any(WAITS.search(self.code[i].text) for i in body)

    def blocks(self) -> list[list[int]]:
        """Return the basic blocks of the reached instructions."""
        blocks: list[list[int]] = []
        for i in self.reached:
            before = self.predecessors[i]
            if before == [i - 1] and len(self.successors[i - 1]) == 1:
                blocks[-1].append(i)
            else:
                blocks.append([i])
        return blocks

    def executions(self, iterations: Sequence[float], share: Callable[[int], float | None]) -> dict[int, float]:
        """Return how often a warp executes each reached instruction.

        Args:
            iterations: Per loop, the number of iterations of a program, all executions of the loop together.
            share: Returns, by the index of an instruction, its executions per iteration of the loop around it, which
                are less than 1 in a branch, or None if they are not known. A block has the median of the known
                shares of its instructions.
        """
        times = dict.fromkeys(self.reached, 1.0)
        for loop, count in sorted(zip(self.loops, iterations, strict=True), key=lambda pair: pair[0].depth):
            times.update(dict.fromkeys(loop.body, count))
        for block in self.blocks():
            branches = [i for i in self.predecessors[block[0]] if len(self.successors[i]) > 1]
            is_slow = bool(branches) and not self._slow.isdisjoint(block)
            shares = [known for known in map(share, block) if known is not None]
            factor = 0.0 if is_slow else median(shares or [1.0])
            for i in block:
                times[i] *= factor
        return times

    def total(self, executions: Mapping[int, float], amount: Callable[[str], float]) -> float:
        """Return the sum of `amount` of the instructions' texts, weighted by their executions."""
        return sum(times * amount(self.code[i].text) for i, times in executions.items())


def _parse(text: str) -> tuple[list[Instruction], dict[str, int]]:
    """Return the instructions, and the indices of the instructions at labels and addresses."""
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    lines: list[tuple[str, int]] = []
    in_comment = False
    for line in text.splitlines():
        if (match := NVIDIA.match(line) or AMD.match(line)) is not None:
            if (address := ADDRESS.match(line)) is not None:
                labels[address["address"]] = len(code)
            code.append(Instruction(match["text"], bool(match["predicate"]), tuple(lines)))
            in_comment = False
        elif "//##" in line:
            lines = lines if in_comment else []
            places = [(file.rpartition("/")[2], int(number)) for file, number in INLINED.findall(line)]
            lines += places[1:] if in_comment else places
            in_comment = True
        elif line.startswith("\t.loc"):
            lines = [(file, int(number)) for file, number in AMD_LINES.findall(line)]
        elif (match := LABEL.match(line)) is not None:
            labels[match["label"]] = len(code)
    if not code:
        raise ValueError("the listing has no instructions")
    return code, labels


_HMMA = {"1684": 16 * 8 * 4, "1688": 16 * 8 * 8, "16816": 16 * 8 * 16}  # multiplications of a warp


def matrix_flops(text: str, mma_sync: float) -> float:
    """Return the floating-point operations of a matrix instruction of one warp, or 0 for another instruction.

    One operation is what a matrix unit needs for 16-bit operands by its fastest instructions. TF32 counts twice and
    float32 (AMD) eight times. `mma_sync` is the factor for HMMA. The tensor-memory instructions (UTC*) do not say their
    shape and give 0.
    """
    if (match := re.match(r"HMMA\.(\d+)\.", text)) is not None:
        flops = 2 * _HMMA[match[1]] * mma_sync
    elif (match := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)\.", text)) is not None:
        flops = 2 * int(match[1]) * int(match[2]) * int(match[3]) / 4  # four warps execute one product
    elif (match := re.match(r"v_mfma_f32_(\d+)x(\d+)x(\d+)_?(\w+)", text)) is not None:
        factor = 8 if match[4].startswith("f32") else 2 if match[4].startswith("xf32") else 1
        return 2 * factor * int(match[1]) * int(match[2]) * int(match[3])
    else:
        return 0.0
    return 2 * flops if "TF32" in text else flops
