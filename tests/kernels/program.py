# SPDX-License-Identifier: Apache-2.0
"""What the programs of a launch do, from Triton's intermediate code (TTIR): iterations, bytes, and products.

TTIR still has the loops and branches of the source. Bounds of loops and conditions of branches are computed from the
arguments of the launch and from the indices of the programs, so that no table of trip counts has to be kept:

- A loop variable has the value of the middle iteration.
- A condition that depends on data is false: the branch is rare. `TAKEN` names the kernels with another share.
- Bounds of a loop that depend on data are an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

from listing import SourceLines

TAKEN: dict[str, float] = {}  # kernel -> share of executions in which conditions that depend on data are true
SAMPLES = 512  # programs that are followed; their averages count

BYTES = {"i1": 1, "i8": 1, "i16": 2, "f16": 2, "bf16": 2, "i32": 4, "f32": 4, "i64": 8, "f64": 8}
VALUE = r"%[\w.#]+"
RESULT = re.compile(r"%[\w.]+(?::\d+)? = ")
FOR = re.compile(rf"scf\.for (?:unsigned )?({VALUE}) = ({VALUE}) to ({VALUE}) step ({VALUE})")
CONSTANT = re.compile(r"arith\.constant (-?\d+|true|false)\b")
SCALAR = re.compile(r" : (?:i\d+|index)(?: to (?:i\d+|index))?$")
SHAPE = re.compile(r"tensor<((?:\d+x)*)(?:!tt\.ptr<)?(\w+)")
POINTER = re.compile(r" : !tt\.ptr<(\w+)>")
PRODUCT = re.compile(r"tt\.dot .*: tensor<(\d+)x(\d+)x(\w+)> \* tensor<\d+x(\d+)x\w+>")
TRANSFERS = ("tt.load", "tt.store", "tt.descriptor_load", "tt.descriptor_store")


def _quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if a * b >= 0 else -1)


def _maximum(a: int, b: int) -> int:
    return max(a, b)


INTEGER: dict[str, Callable[..., int]] = {
    "addi": lambda a, b: a + b, "subi": lambda a, b: a - b, "muli": lambda a, b: a * b,
    "divsi": _quotient, "divui": _quotient, "remsi": lambda a, b: a - _quotient(a, b) * b, "remui": lambda a, b: a % b,
    "maxsi": _maximum, "maxui": _maximum, "minsi": lambda a, b: min(a, b), "minui": lambda a, b: min(a, b),
    "andi": lambda a, b: a & b, "ori": lambda a, b: a | b, "xori": lambda a, b: a ^ b,
    "shli": lambda a, b: a << b, "shrsi": lambda a, b: a >> b, "shrui": lambda a, b: a >> b,
    "extsi": lambda a: a, "extui": lambda a: a, "trunci": lambda a: a, "index_cast": lambda a: a,
    "select": lambda a, b, c: b if a else c,
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b,
    "slt": lambda a, b: a < b, "sle": lambda a, b: a <= b, "sgt": lambda a, b: a > b, "sge": lambda a, b: a >= b,
    "ult": lambda a, b: a < b, "ule": lambda a, b: a <= b, "ugt": lambda a, b: a > b, "uge": lambda a, b: a >= b,
}  # fmt: skip


@dataclass
class Operation:
    """One operation, with the operations inside it."""

    text: str
    lines: SourceLines = ()
    bodies: list[list[Operation]] = field(default_factory=list)

    @cached_property
    def name(self) -> str:
        return RESULT.sub("", self.text, count=1).split(None, 1)[0].strip('"')

    @cached_property
    def result(self) -> str:
        return self.text.split(None, 1)[0].partition(":")[0]

    @cached_property
    def scalar(self) -> tuple[Callable[..., int], list[str]] | None:
        """The function and the operands of an operation on scalar integers, else None."""
        if self.name in ("tt.get_program_id", "tt.get_num_programs"):
            return lambda value: value, [f"{self.name} {self.text.split()[3]}"]
        if not self.name.startswith("arith.") or SCALAR.search(self.text) is None:
            return None
        if (match := CONSTANT.search(self.text)) is not None:
            value = int(match[1]) if match[1].lstrip("-").isdigit() else int(match[1] == "true")
            return lambda: value, []
        name = self.name.removeprefix("arith.")
        if name == "cmpi":
            name = self.text.partition("arith.cmpi ")[2].partition(",")[0]
        operands = re.findall(VALUE, self.text.partition(" = ")[2])
        return (INTEGER[name], operands) if name in INTEGER else None

    @cached_property
    def bytes(self) -> int:
        """The bytes that a load or store requests."""
        if self.name not in TRANSFERS:
            return 0
        if (pointer := POINTER.search(self.text)) is not None:
            return BYTES[pointer[1]]
        shape, kind = SHAPE.findall(self.text)[-1]
        return BYTES[kind] * prod(int(size) for size in shape.split("x") if size)

    @cached_property
    def flops(self) -> int:
        """The operations of a product, in the unit of listing.matrix_flops."""
        if (shape := PRODUCT.search(self.text)) is None:
            return 0
        precision = re.search(r"inputPrecision = (\w+)", self.text)
        slower = 8 if precision is None else {"tf32": 2, "tf32x3": 6}.get(precision[1], 8)
        factor = 1 if BYTES[shape[3]] <= 2 else slower
        return 2 * factor * int(shape[1]) * int(shape[2]) * int(shape[4])

    def inside(self) -> Iterator[Operation]:
        """Yield the operations inside this one, in the order of the source."""
        for body in self.bodies:
            for operation in body:
                yield operation
                yield from operation.inside()


class SourceLoop(NamedTuple):
    """A loop of the source: the number of loops around it, its iterations per program, and its lines."""

    depth: int
    iterations: float
    lines: frozenset[SourceLines]  # without those of the loops in it


@dataclass
class Totals:
    """Sums over the followed programs."""

    iterations: dict[int, float] = field(default_factory=dict)  # by id of the loop's operation
    reached: dict[int, float] = field(default_factory=dict)  # by id of the branch's operation
    taken: dict[int, float] = field(default_factory=dict)
    bytes: float = 0.0  # of loads and stores
    flops: float = 0.0  # of products, in the unit of listing.matrix_flops


class Program:
    """The TTIR of a kernel, and the averages over the programs of a launch.

    Args:
        text: The TTIR.
        arguments: Integer arguments by their names in TTIR, such as "a.channels".
        grid: Number of programs per dimension.
        taken: Share of executions in which conditions that depend on data are true.

    Attributes:
        loops: Loops in the order of the source.
        shares: Source lines that are only in branches, with the share of executions that take the branch.
        used: Names of the arguments that the kernel uses.
        bytes: Bytes per program that loads and stores request.
        flops: Floating-point operations per program of the matrix products.

    Raises:
        ValueError: If the bounds of a loop depend on data.
    """

    def __init__(self, text: str, arguments: Mapping[str, int], grid: tuple[int, ...], taken: float = 0.0) -> None:
        self.function = _parse(text)
        self.taken = taken
        operations = list(self.function.inside())
        self.used = {name for operation in operations for name in re.findall(r"%([\w.]+)", operation.text)}
        followed, totals = _samples(prod(grid)), Totals()
        for index in followed:
            values: dict[str, Any] = {f"%{name}": value for name, value in arguments.items()}
            for axis, size in zip("xyz", (*grid, 1, 1), strict=False):
                values[f"tt.get_num_programs {axis}"], values[f"tt.get_program_id {axis}"] = size, index % size
                index //= size
            self._follow(self.function.bodies[0], values, 1.0, totals)
        self.loops = [
            SourceLoop(depth, totals.iterations.get(id(loop), 0.0) / len(followed), _own_lines(loop))
            for depth, loop in _loops(self.function, 0)
        ]
        self.shares = self._shares(operations, totals)
        self.bytes, self.flops = totals.bytes / len(followed), totals.flops / len(followed)

    def _follow(self, operations: list[Operation], values: dict[str, Any], times: float, totals: Totals) -> None:
        for operation in operations:
            name = operation.name
            if name == "scf.for":
                self._repeat(operation, values, times, totals)
            elif name == "scf.if":
                condition = values.get(operation.text.partition("scf.if ")[2].split(None, 1)[0])
                share = self.taken if condition is None else float(condition)
                totals.reached[id(operation)] = totals.reached.get(id(operation), 0.0) + times
                totals.taken[id(operation)] = totals.taken.get(id(operation), 0.0) + times * share
                for body, part in zip(operation.bodies, (share, 1 - share), strict=False):
                    self._follow(body, values, times * part, totals)
            elif name == "scf.while":
                raise ValueError(f"the loop at {operation.lines} depends on data")
            elif operation.scalar is not None:
                function, names = operation.scalar
                operands = [values.get(operand) for operand in names]
                values[operation.result] = None if None in operands else function(*operands)
            else:
                totals.bytes += times * operation.bytes
                totals.flops += times * operation.flops

    def _repeat(self, loop: Operation, values: dict[str, Any], times: float, totals: Totals) -> None:
        match = FOR.search(loop.text)
        assert match is not None, loop.text
        first, end, step = (values.get(match[i]) for i in (2, 3, 4))
        if first is None or end is None or step is None:
            raise ValueError(f"the bounds of the loop at {loop.lines} depend on data")
        count = max(0, -((first - end) // step))
        totals.iterations[id(loop)] = totals.iterations.get(id(loop), 0.0) + times * count
        values[match[1]] = first + count // 2 * step
        self._follow(loop.bodies[0], values, times * count, totals)

    @staticmethod
    def _shares(operations: list[Operation], totals: Totals) -> dict[SourceLines, float]:
        """Return the shares of lines that are only in branches. A branch in tl.static_range has several copies."""
        copies: dict[SourceLines, list[Operation]] = {}
        for operation in operations:
            if operation.name == "scf.if":
                copies.setdefault(operation.lines, []).append(operation)
        shares: dict[SourceLines, float] = {}
        for branches in copies.values():
            reached, taken = (sum(count.get(id(b), 0.0) for b in branches) for count in (totals.reached, totals.taken))
            inside = {id(operation) for branch in branches for operation in branch.inside()}
            outside = {operation.lines for operation in operations if id(operation) not in inside}
            for branch in branches if reached > 0 else ():
                for body, share in zip(branch.bodies, (taken / reached, 1 - taken / reached), strict=False):
                    for operation in Operation("", bodies=[body]).inside():
                        if operation.lines not in outside:
                            shares[operation.lines] = min(share, shares.get(operation.lines, 1.0))
        return shares


def _loops(operation: Operation, depth: int) -> Iterator[tuple[int, Operation]]:
    """Yield the loops inside an operation with their depths, in the order of the source."""
    for inner in (inner for body in operation.bodies for inner in body):
        is_loop = inner.name == "scf.for"
        if is_loop:
            yield depth, inner
        yield from _loops(inner, depth + is_loop)


def _own_lines(loop: Operation) -> frozenset[SourceLines]:
    nested = {id(operation) for _, inner in _loops(loop, 0) for operation in inner.inside()}
    return frozenset(operation.lines for operation in loop.inside() if id(operation) not in nested)


def _samples(programs: int) -> list[int]:
    """Return the indices of all programs, or of SAMPLES programs that are spread without a period."""
    if programs <= SAMPLES:
        return list(range(programs))
    return [int(i * 0.6180339887 % 1 * programs) for i in range(1, SAMPLES + 1)]


def _parse(text: str) -> Operation:
    """Return the function of a module, as an operation."""
    places = dict(re.findall(r"^(#loc\d*) = loc\((.*)\)$", text, re.M))

    def lines(place: str) -> SourceLines:
        if (call := re.match(r"callsite\((\S+) at (\S+)\)$", place)) is not None:
            return lines(call[1]) + lines(call[2])
        if place in places:
            return lines(places[place])
        if (named := re.match(r'"[^"]*"\((.*)\)$', place)) is not None:
            return lines(named[1])
        file = re.match(r'"([^"]*)":(\d+):\d+', place)
        return () if file is None else ((file[1].rpartition("/")[2], int(file[2])),)

    function = Operation("tt.func")
    stack: list[Operation] = []
    for line in text[text.index("tt.func public") :].splitlines():
        line, _, place = line.strip().rpartition(" loc(") if " loc(" in line else (line.strip(), "", "")
        where = lines(place.removesuffix(")"))
        if not stack:
            function.bodies.append([])
            stack.append(function)
        elif line.startswith("}"):
            if line.endswith("{"):
                stack[-1].bodies.append([])
            else:
                stack.pop().lines = where
                if not stack:
                    break
        elif line.endswith("{"):
            operation = Operation(line, where, [[]])
            stack[-1].bodies[-1].append(operation)
            stack.append(operation)
        elif line and not line.startswith("^"):
            stack[-1].bodies[-1].append(Operation(line, where))
    return function
