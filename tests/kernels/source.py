# SPDX-License-Identifier: Apache-2.0
"""Loops and branches of C++ sources, and how often warps execute them, from counts of basic blocks per line.

A branch that ends with `continue`, `break` or `return` does not change the count of the code after it. Write `else`
where this matters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from math import prod
from typing import NamedTuple

from listing import SourceLines

KEYWORD = re.compile(r"(?<!else )\b(for|while|if constexpr|if)\s*(?=\()")
ELSE = re.compile(r"\s*else\b\s*(?P<chained>if (?:constexpr )?(?=\())?")
LAMBDA = re.compile(r"(?<![\w\])])\[[&=\w, ]*\]\s*(?:\([^()]*\))?\s*(?:mutable\s*)?(?:->\s*[\w:]+\s*)?(?=\{)")
UNROLL = re.compile(r"#pragma unroll *(\d*)$")
SKIPPED = re.compile(r"//[^\n]*|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)+'")


class Block(NamedTuple):
    """A basic block: its lines, a number of its function, and its executions."""

    lines: frozenset[tuple[str, int]]
    function: int
    executions: float


class Scope(NamedTuple):
    """A loop, a branch or a lambda. Lines count from one.

    `unroll` is the number of iterations that the compiler is asked to join, and 0 if it unrolls the loop completely.
    `by_one` says whether a loop counts by one.
    """

    kind: str  # "loop", "branch" or "lambda"
    file: str
    begin: int
    body: int  # first line of the body, without the brace
    end: int
    unroll: int = 1
    by_one: bool = False

    def holds(self, line: int) -> bool:
        """Return whether a loop or its head, or the body of a branch, holds the line."""
        return (self.begin if self.kind == "loop" else self.body) <= line <= self.end


def scopes(text: str, file: str) -> list[Scope]:
    """Return the scopes of a source, outer scopes before inner ones. `if constexpr` is no branch."""
    code = SKIPPED.sub(lambda match: " " * len(match[0]), text)
    found: list[tuple[int, Scope]] = []

    def add(kind: str, begin: int, body: int, end: int, unroll: int = 1, by_one: bool = False) -> None:
        first, last = (code.count("\n", 0, i) + 1 for i in (begin, end - 1))
        opened = code.count("\n", 0, body) + 1
        has_brace = code[body:].lstrip().startswith("{")
        if kind == "branch" and code[end - 1] == "}" and ELSE.match(code, end):
            last -= 1  # the line belongs to `else`
        body_line = (
            opened if first == last else opened + 1 if has_brace else code.count("\n", 0, _start(code, body)) + 1
        )
        found.append((begin, Scope(kind, file, first, body_line, last, unroll, by_one)))

    for match in LAMBDA.finditer(code):
        add("lambda", match.start(), match.end(), _end(code, match.end()))
    for match in KEYWORD.finditer(code):
        begin, body = match.start(), _closing(code, match.end())
        end = _end(code, body)
        if match[1] in ("for", "while"):
            pragma = UNROLL.search(code[:begin].rstrip()[-40:])
            by_one = re.search(r"(\+\+|--)\w+\)$", code[begin:body]) is not None
            add("loop", begin, body, end, 1 if pragma is None else int(pragma[1] or 0), by_one)
        elif match[1] == "if":
            add("branch", begin, body, end)
            while (other := ELSE.match(code, end)) is not None:
                body = other.end() if other["chained"] is None else _closing(code, other.end())
                begin, end = other.end() - 1, _end(code, body)
                add("branch", begin, body, end)
                if other["chained"] is None:
                    break
    return [scope for _, scope in sorted(found)]


def _lines(scope: Scope) -> frozenset[tuple[str, int]]:
    """Return the lines of a loop or lambda with its head, or of the body of a branch."""
    first = scope.body if scope.kind == "branch" else scope.begin
    return frozenset((scope.file, line) for line in range(first, scope.end + 1))


def _closing(code: str, begin: int) -> int:
    """Return the position behind the bracket that closes the one at `begin`."""
    depth = 0
    for i in range(begin, len(code)):
        depth += (code[i] in "([{") - (code[i] in ")]}")
        if depth == 0:
            return i + 1
    raise ValueError(f"the bracket at {code[begin : begin + 20]!r} is not closed")


def _start(code: str, begin: int) -> int:
    return begin + len(code[begin:]) - len(code[begin:].lstrip())


def _end(code: str, begin: int) -> int:
    """Return the position behind the statement that begins at `begin`."""
    begin = _start(code, begin)
    if code[begin] == "{":
        return _closing(code, begin)
    if (match := KEYWORD.match(code, begin)) is not None:
        end = _end(code, _closing(code, match.end()))
        while match[1].startswith("if") and (other := ELSE.match(code, end)) is not None:
            end = _end(code, other.end() if other["chained"] is None else _closing(code, other.end()))
        return end
    while code[begin] != ";":
        begin = _closing(code, begin) if code[begin] in "([{" else begin + 1
    return begin + 1


class Counts:
    """How often warps execute the loops and branches of some sources.

    Args:
        blocks: Basic blocks of the executed functions, compiled without optimisation, in the order of the code.
        sources: Scopes per file.
    """

    def __init__(self, blocks: Sequence[Block], sources: Mapping[str, Sequence[Scope]]) -> None:
        self._sources, self._blocks = sources, blocks
        self._calls: dict[int, float] = {}  # by function
        for block in blocks:
            self._calls.setdefault(block.function, block.executions)
        self.iterations, self.share = cache(self._iterations), cache(self._share)

    def _inside(self, scope: Scope) -> list[Scope]:
        """Return the scopes in a scope."""
        scopes = self._sources[scope.file]
        later = scopes[scopes.index(scope) + 1 :]
        return [other for other in later if scope.begin <= other.begin and other.end <= scope.end]

    def _iterations(self, loop: Scope) -> float:
        """Return the number of iterations, which is the number of steps.

        The blocks with the line of the head are, in this order: the code before the loop, the body if it is on the same
        line, the step, and the condition, which is executed most often.
        """
        inner = self._inside(loop)
        body = _lines(loop).difference(*map(_lines, inner), [(loop.file, loop.begin)])
        total = 0.0
        for function in {block.function for block in self._blocks if (loop.file, loop.begin) in block.lines}:
            blocks = [block for block in self._blocks if block.function == function]
            before, *others = (block.executions for block in blocks if (loop.file, loop.begin) in block.lines)
            condition = max(others, default=before)
            steps = [executions for executions in others if executions < condition]
            if not steps:  # a loop without a step
                firsts = [next((b for b in blocks if not b.lines.isdisjoint(_lines(other))), None) for other in inner]
                entries = [*firsts, *(block for block in blocks if not body.isdisjoint(block.lines))]
                steps = [block.executions for block in entries if block and block.executions < condition]
            total += max(steps, default=0.0)
        return total

    def _entries(self, branch: Scope) -> dict[int, float]:
        """Return how often the branch is entered, by function. On one line, it is the last block of the line."""
        lambdas = [scope for scope in self._inside(branch) if scope.kind == "lambda"]
        body = _lines(branch).difference(*map(_lines, lambdas)) or _lines(branch)
        result: dict[int, float] = {}
        for block in self._blocks:
            if not body.isdisjoint(block.lines) and (branch.begin == branch.end or block.function not in result):
                result[block.function] = block.executions
        return result

    def _share(self, scope: Scope) -> float:
        """Return the share of executions of the code around a branch or a loop in which it is entered, at most 1."""
        entries = self._entries(scope)
        around = [other for other in self._sources[scope.file] if scope in self._inside(other)]
        if not around or around[-1].kind == "lambda":
            total = sum(self._calls[function] for function in entries)
        elif around[-1].kind == "loop":
            total = self.iterations(around[-1])
        else:
            total = sum(self._entries(around[-1]).values())
        count = self.iterations(scope) if scope.kind == "loop" else sum(entries.values())
        return min(1.0, count / total) if total > 0 else 0.0

    def _frames(self, lines: SourceLines) -> Iterator[Iterator[Scope]]:
        """Yield, per frame from the outermost to the innermost, the scopes of its function, outer scopes first."""
        for depth, (file, line) in enumerate(reversed(lines), 1):
            around = [scope for scope in self._sources.get(file, ()) if scope.holds(line)]
            first = max((i + 1 for i, scope in enumerate(around) if scope.kind == "lambda"), default=0)
            is_call = depth < len(lines)
            yield (s for s in around[first:] if s.kind == "loop" or s.begin < s.end or is_call)

    def loops(self, lines: SourceLines) -> list[Scope]:
        """Return the loops around an instruction, outer loops first, without those that are unrolled completely."""
        return [s for frame in self._frames(lines) for s in frame if s.kind == "loop" and s.unroll != 0]

    def share_of(self, lines: SourceLines, loop: Scope | None) -> float | None:
        """Return the share of the iterations of a loop, or of the calls of the kernel, in which a line is executed.

        It is None if neither the loop nor a branch holds the line. Then the compiler has moved the instruction into the
        loop.
        """
        around = [scope for frame in self._frames(lines) for scope in frame]
        if loop is not None and loop in around:
            around = around[around.index(loop) + 1 :]
        elif loop is not None:
            around = [scope for scope in around if scope.kind == "branch"]
            if not around:
                return None
        return prod(self.share(scope) for scope in around)
