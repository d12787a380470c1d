# SPDX-License-Identifier: Apache-2.0
"""Tests of the loops and branches of C++ sources, and of their executions."""

from __future__ import annotations

import pytest
from source import Block, Counts, Scope, scopes

SOURCE = """void kernel(int n) {
  const auto end = [&] {
    finish();
  };
#pragma unroll 1
  for (int y = 0; y < n; ++y) {  // rows (of a "tile"
#pragma unroll
    for (int i = 0; i < 8; ++i) add(i);
    if (y % 4 == 0) {
      start();
    } else if (y % 4 == 1) {
      stop();
    } else {
      wait();
    }
    if (y == 7) end();
    if constexpr (kWide) {
      widen();
    }
  }
  while (n > 0) n -= 64;
}
"""
# The branches `y % 4 == 0` and `y == 7` are taken 25 and 10 times in 100 iterations, which come from 5 calls.
BLOCKS = [
    ([2], 2, 10), ([3], 2, 10),
    ([1, 6], 1, 5), ([8], 1, 100), ([8], 1, 800), ([8], 1, 900), ([9], 1, 100), ([10], 1, 25), ([11], 1, 75),
    ([12], 1, 0), ([14], 1, 75), ([16], 1, 100), ([16], 1, 10), ([6, 18], 1, 100), ([6], 1, 105),
    ([21], 1, 5), ([21], 1, 0), ([21], 1, 5),
]  # fmt: skip


@pytest.fixture
def counts() -> Counts:
    blocks = [Block(frozenset(("a.cu", line) for line in lines), function, times) for lines, function, times in BLOCKS]
    return Counts(blocks, {"a.cu": scopes(SOURCE, "a.cu")})


def scope(counts: Counts, begin: int) -> Scope:
    (found,) = (scope for scope in counts._sources["a.cu"] if scope.begin == begin)
    return found


def test_scopes_by_hand():
    assert [found[:1] + found[2:] for found in scopes(SOURCE, "a.cu")] == [
        ("lambda", 2, 3, 4, 1, False),
        ("loop", 6, 7, 20, 1, True),
        ("loop", 8, 8, 8, 0, True),
        ("branch", 9, 10, 10, 1, False),
        ("branch", 11, 12, 12, 1, False),
        ("branch", 13, 14, 15, 1, False),
        ("branch", 16, 16, 16, 1, False),
        ("loop", 21, 21, 21, 1, False),
    ]
    (four,) = scopes("#pragma unroll 4\nfor (;;) {\n}\n", "a.cu")
    assert four.unroll == 4
    with pytest.raises(ValueError, match="not closed"):
        scopes("if (a", "a.cu")


def test_iterations_are_the_steps_of_a_loop(counts: Counts):
    assert [counts.iterations(scope(counts, line)) for line in (6, 8, 21)] == [100, 800, 0]


def test_shares_are_relative_to_the_code_around_a_branch(counts: Counts):
    assert [counts.share(scope(counts, line)) for line in (9, 11, 13, 16)] == [0.25, 0, 0.75, 0.1]


def test_an_instruction_counts_as_often_as_its_branches(counts: Counts):
    rows = scope(counts, 6)
    in_lambda = (("a.cu", 3), ("a.cu", 16))
    assert counts.share_of((("a.cu", 10),), rows) == 0.25
    assert counts.share_of(in_lambda, rows) == 0.1  # by the line that calls the lambda
    assert counts.share_of((("a.cu", 16),), rows) == 1  # the condition is on the same line
    assert counts.share_of((("a.cu", 21),), rows) is None  # moved into the loop
    assert counts.share_of((("a.cu", 10),), scope(counts, 21)) == 0.25  # in a branch, but its loop is not known
    assert counts.share_of((("a.cu", 21),), None) == 0  # peeled off a loop that has no iteration
    assert counts.share_of((("b.h", 1), ("a.cu", 7)), None) == 1  # b.h is not counted


def test_loops_around_an_instruction_without_unrolled_ones(counts: Counts):
    assert counts.loops((("b.h", 1), ("a.cu", 8))) == [scope(counts, 6)]
    assert counts.loops((("a.cu", 3), ("a.cu", 16))) == [scope(counts, 6)]
    assert counts.loops((("a.cu", 3),)) == []


def test_executions_around_a_loop_and_in_a_lambda():
    text = "\nauto g = [&] {\n  if (a) {\n    h();\n  }\n};\nif (b) {\n  while (c) {\n    g();\n  }\n}\n"
    lines = [([2], 2, 40), ([4], 2, 10), ([1, 2, 7], 1, 8), ([8], 1, 2), ([9], 1, 40), ([8], 1, 42)]
    blocks = [Block(frozenset(("a.cu", line) for line in own), function, times) for own, function, times in lines]
    counts = Counts(blocks, {"a.cu": scopes(text, "a.cu")})
    loop = scope(counts, 8)
    assert counts.iterations(loop) == 40 and counts.share(scope(counts, 3)) == counts.share(scope(counts, 7)) == 0.25
    assert counts.share_of((("a.cu", 9),), loop) == 1 and counts.share_of((("a.cu", 9),), None) == 0.25
    never = Counts([], {"a.cu": scopes(text, "a.cu")})
    assert never.share(scope(never, 3)) == never.share(loop) == never.iterations(loop) == 0
