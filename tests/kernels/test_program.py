# SPDX-License-Identifier: Apache-2.0
"""Tests of the work of a launch: trip counts and branches from TTIR, and their match with the machine code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import work
from listing import Listing
from program import Program, SourceLoop

# Each of the programs walks every programs-th tile; per tile, blocks of 32 channels. The first program of a launch
# stores its result, and a condition on the loaded data leads to another load.
TTIR = """
#loc = loc("/x/kernel.py":1:0)
module {
  tt.func public @kernel(%a.data: !tt.ptr<bf16> loc("a"(#loc)), %a.channels: i32, %tiles: i32, %unused: !tt.ptr<f32>) {
    %c32 = arith.constant 32 : i32 loc(#loc1)
    %c0 = arith.constant 0 : i32 loc(#loc1)
    %cst = arith.constant dense<0.000000e+00> : tensor<64x16xf32> loc(#loc1)
    %0 = tt.get_program_id x : i32 loc(#loc2)
    %1 = tt.get_num_programs x : i32 loc(#loc2)
    %2 = arith.extsi %0 : i32 to i64 loc(#loc2)
    %3 = arith.extsi %tiles : i32 to i64 loc(#loc2)
    %4 = arith.extsi %1 : i32 to i64 loc(#loc2)
    %sum:2 = scf.for %tile = %2 to %3 step %4 iter_args(%s = %cst, %t = %cst) -> (tensor<64x16xf32>, i32)  : i64 {
      %5 = scf.for %c = %c0 to %a.channels step %c32 iter_args(%u = %s) -> (tensor<64x16xf32>)  : i32 {
        %x = tt.load %p, %m, %z : tensor<64x32x!tt.ptr<bf16>> loc(#loc4)
       %y = tt.dot %x, %w, %u, inputPrecision = tf32x3 : tensor<8x4xf32> * tensor<4x2xf32> -> tensor<8x2xf32> loc(#loc4)
        scf.yield %y : tensor<64x16xf32> loc(#loc4)
      } loc(#loc3)
      %6 = "tt.reduce"(%5) <{axis = 1 : i32}> ({
      ^bb0(%l: f32 loc(unknown), %r: f32 loc(unknown)):
        tt.reduce.return %l : f32 loc(#loc5)
      }) : (tensor<64x16xf32>) -> tensor<64xf32> loc(#loc5)
      scf.if %6 {
        %7 = tt.load %q : !tt.ptr<i64> loc(#loc6)
        %9 = arith.addf %x, %x : tensor<64x32xf32> loc(#loc4)
      } else {
        tt.store %r, %v : tensor<4x!tt.ptr<f32>> loc(#loc7)
      } loc(#loc5)
      scf.yield %5, %c0 : tensor<64x16xf32>, i32 loc(#loc3)
    } loc(#loc2)
    %8 = arith.cmpi eq, %0, %c0 : i32 loc(#loc8)
    scf.if %8 {
      tt.store %a.data, %sum#0, %m : tensor<64x16x!tt.ptr<f32>> loc(#loc9)
    } loc(#loc8)
    tt.return loc(#loc)
  } loc(#loc)
} loc(#loc)
#loc1 = loc(unknown)
#loc2 = loc("/x/kernel.py":2:4)
#loc3 = loc("/x/kernel.py":3:4)
#loc4 = loc(callsite(#loc10 at #loc3))
#loc5 = loc("/x/kernel.py":5:4)
#loc6 = loc("x"(#loc11))
#loc7 = loc("/x/kernel.py":7:4)
#loc8 = loc("/x/kernel.py":8:4)
#loc9 = loc("/x/kernel.py":9:4)
#loc10 = loc("/x/tiles.py":10:4)
#loc11 = loc("/x/kernel.py":6:4)
"""
ARGUMENTS = {"tiles": 10, "a.channels": 96}
SASS = """
        /*0000*/  MOV R1, R2 ;
        /*0010*/  FADD R1, R1, R2 ;
        /*0020*/  LDG.E R3, [R4] ;
        /*0030*/  @P0 BRA 0x20 ;
        /*0040*/  @P1 BRA 0x10 ;
        /*0050*/  EXIT ;
"""


def line(number: int) -> tuple[tuple[str, int], ...]:
    return (("kernel.py", number),)


def test_trip_counts_bytes_and_products_by_hand():
    program = Program(TTIR, ARGUMENTS, (4,))
    assert [(loop.depth, loop.iterations) for loop in program.loops] == [(0, 2.5), (1, 7.5)]  # 3, 3, 2 and 2 tiles
    assert program.bytes == 7.5 * 64 * 32 * 2 + 2.5 * 4 * 4 + 64 * 16 * 4 / 4
    assert program.flops == 7.5 * 6 * 2 * 8 * 4 * 2  # three products in TF32, each at half of the rate
    assert "a.data" in program.used and "tiles" in program.used and "b.data" not in program.used


def test_shares_of_branches_by_hand():
    program = Program(TTIR, ARGUMENTS, (4,))
    assert program.shares == {line(6): 0.0, line(7): 1.0, line(9): 0.25}
    rare = Program(TTIR, ARGUMENTS, (4,), taken=0.1)
    assert rare.shares == {line(6): 0.1, line(7): 0.9, line(9): 0.25}
    assert rare.bytes - program.bytes == pytest.approx(2.5 * 0.1 * (8 - 4 * 4))


def test_copies_of_a_branch_have_one_share():
    begin, end = TTIR.index("      scf.if %6"), TTIR.index("      scf.yield %5")
    twice = TTIR[:end] + TTIR[begin:]
    assert Program(twice, ARGUMENTS, (4,), taken=0.1).shares == Program(TTIR, ARGUMENTS, (4,), taken=0.1).shares


def test_source_lines_of_loops_include_the_calls():
    outer, inner = Program(TTIR, ARGUMENTS, (4,)).loops
    assert (("tiles.py", 10), ("kernel.py", 3)) in inner.lines and line(7) in outer.lines - inner.lines


def test_many_programs_are_sampled_without_a_period():
    program = Program(TTIR, {**ARGUMENTS, "tiles": 100_000}, (30_000,))
    assert program.loops[0].iterations == pytest.approx(10 / 3, rel=0.01)


def test_a_loop_whose_bounds_depend_on_data_is_refused():
    with pytest.raises(ValueError, match=r"kernel.py', 3\).* depend on data"):
        Program(TTIR, {"tiles": 10}, (4,))


def test_unrolled_copies_count_as_one_loop():
    loops = [SourceLoop(0, 100.0, frozenset({line(1)})), SourceLoop(0, 7.0, frozenset({line(2)}))]
    text = """
	//## File "/x/kernel.py", line 1
        /*0000*/  FADD R1, R1, R2 ;
        /*0010*/  FADD R1, R1, R2 ;
        /*0020*/  @P0 BRA 0x0 ;
        /*0030*/  FADD R1, R1, R2 ;
        /*0040*/  @P0 BRA 0x30 ;
	//## File "/x/kernel.py", line 2
        /*0050*/  FMUL R1, R1, R2 ;
        /*0060*/  @P0 BRA 0x50 ;
        /*0070*/  EXIT ;
"""
    assert work.iterations(Listing(text), loops) == [0.0, 100.0, 7.0]
    with pytest.raises(ValueError, match="3 loops and the machine code has 2.*tl.static_range"):
        work.iterations(
            Listing(text[: text.index("        /*0000*/")] + text[text.index("        /*0030*/") :]), [*loops, loops[0]]
        )


class View(NamedTuple):
    data: Any
    channels: Any


@pytest.mark.parametrize("names", [("a.data", "a.channels"), ("a", "a_0")], ids=["new_triton", "old_triton"])
def test_work_of_a_launch_by_hand(names: tuple[str, str]):
    a = torch.empty(4, 96, 64, dtype=torch.bfloat16, device="meta")
    ttir = TTIR.replace("%a.data", f"%{names[0]}").replace("%a.channels", f"%{names[1]}")
    types = {"a": View("*bf16", "i32"), "SIZE": "constexpr", "tiles": "i32", "unused": "*fp32"}
    binary: Any = SimpleNamespace(
        asm={"ttir": ttir}, metadata=SimpleNamespace(num_warps=8), src=SimpleNamespace(signature=types)
    )
    arguments = {"a": View(a, 96), "SIZE": 7, "tiles": 10, "unused": a.float()}
    launch = work.Launch("kernel", binary, arguments, (4,))
    assert work.work(launch, SASS, "sm_90", a.numel()) == {
        "instructions": float(f"{8 * 4 * (1 + 2.5 * 2 + 7.5 * 2 + 1) / a.numel():.3g}"),
        "matrix_flops": 0.0,
        "l2": float(f"{4 * (7.5 * 4096 + 2.5 * 16 + 1024) / a.numel():.3g}"),
        "memory": 2.0,
    }
