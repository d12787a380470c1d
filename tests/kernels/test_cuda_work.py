# SPDX-License-Identifier: Apache-2.0
"""Tests of the work of CUDA kernels: loops by their source lines, executions of blocks, and bytes."""

from __future__ import annotations

import json

import cuda_work
import pytest
import roofline
from cuda_counts import CountedLaunch, kernel_name
from listing import Listing
from source import Block, scopes

SOURCE = """void kernel(int n) {
  for (int y = 0; y < n; ++y) {
    load(y);
    if (y % 4 == 0) {
      start();
    }
  }
}
"""
BLOCKS = [([1, 2], 64), ([3, 4], 6400), ([5], 1600), ([2], 6400), ([2], 6464)]
CODE = """
	//## File "/x/a.cu", line 1
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
	//## File "/x/a.cu", line 3
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
	//## File "/x/a.cu", line 4
        /*0020*/               @P0 BRA `(.L_x_1) ;
	//## File "/x/a.cu", line 5
        /*0030*/                   FADD R4, R4, R5 ;
        /*0040*/                   STG.E.U16 desc[UR4][R2.64], R4 ;
.L_x_1:
	//## File "/x/a.cu", line 2
        /*0050*/                   VIADD R7, R7, 0x1 ;
        /*0060*/               @P1 BRA `(.L_x_0) ;
        /*0070*/                   EXIT ;
"""


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuda_work, "sources", lambda: {"a.cu": scopes(SOURCE, "a.cu")})


def launch(threads: int = 64) -> CountedLaunch:
    blocks = [Block(frozenset(("a.cu", line) for line in lines), 1, float(times)) for lines, times in BLOCKS]
    return CountedLaunch("kernel", 32, threads, blocks)


def test_work_by_hand():
    # 64 warps iterate 100 times: four instructions, and two more in a quarter of the iterations.
    found = cuda_work.work(Listing(CODE), launch(), elements=6400)
    assert found["instructions"] == pytest.approx((6400 * 4.5 + 64 * 2) / 6400)
    assert found["l2"] == pytest.approx(512 + 0.25 * 64) and found["memory"] == 0
    assert cuda_work.work(Listing(CODE), launch(), elements=640)["instructions"] == pytest.approx(
        10 * found["instructions"]
    )


def test_a_loop_that_joins_iterations_counts_fewer():
    found = cuda_work.work(Listing(CODE.replace("R7, 0x1 ", "R7, 0x4 ")), launch(), elements=6400)
    assert found["l2"] == pytest.approx((512 + 0.25 * 64) / 4)
    address = cuda_work.work(Listing(CODE.replace("R7, 0x1 ", "R7, 0x200 ")), launch(), elements=6400)
    assert address["l2"] == pytest.approx(512 + 0.25 * 64)


def test_a_loop_that_is_not_in_the_source_is_refused():
    with pytest.raises(ValueError, match="no loop of the source"):
        cuda_work.work(Listing(CODE.replace("a.cu", "b.cu")), launch(), elements=1)


def test_the_first_block_of_a_loop_counts_every_time():
    moved = CODE.replace('"/x/a.cu", line 3', '"/x/a.cu", line 5')  # a load that the compiler moved out of the branch
    assert cuda_work.work(Listing(moved), launch(), elements=6400)["l2"] == pytest.approx(512 + 0.25 * 64)


def test_a_block_counts_at_most_as_often_as_those_before_it():
    code = CODE.replace(
        "        /*0040*/",
        """        /*0031*/               @P2 BRA `(.L_x_2) ;
	//## File "/x/a.cu", line 1
        /*0040*/""",
    ).replace(".L_x_1:", '.L_x_2:\n	//## File "/x/a.cu", line 5\n        /*0048*/                   NOP ;\n.L_x_1:')
    assert cuda_work.work(Listing(code), launch(), elements=6400)["l2"] == pytest.approx(512 + 0.25 * 64)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LDG.E.128 R4, desc[UR4][R2.64]", 512), ("LDG.E.U16 R4, [R2]", 64), ("LDG.E R4, [R2]", 128),
        ("LDGSTS.E.BYPASS.128 [R4], desc[UR4][R2.64]", 512), ("LDGSTS.E.64 [R4], [R2.64]", 256),
        ("STG.E.EF.128 [R2], R4", 512), ("LDS.128 R4, [R2]", 0), ("LDC.64 R4, c[0x0]", 0), ("LDGDEPBAR", 0),
    ],
)  # fmt: skip
def test_bytes_of_accesses_to_global_memory(text: str, expected: int):
    assert cuda_work.accessed(text) == expected


def test_names_of_kernels():
    text = "void stylefast::(anonymous namespace)::pool_kernel<stylefast::bfloat16, true>(stylefast::PoolTask<float>)"
    assert kernel_name(text) == "pool_kernel<bfloat16, true>" and kernel_name("main") == "main"


def test_the_stored_predictions_of_cuda_follow_from_the_table():
    table, stored = (json.loads(path.read_text()) for path in (roofline.CUDA_TABLE, roofline.CUDA_PREDICTIONS))
    assert roofline.predictions(table) == stored
    assert len(stored) == len(cuda_work.DEVICES) * len(cuda_work.WORKLOADS)


def test_the_bytes_from_l2_are_similar_on_all_devices():
    table = json.loads(roofline.CUDA_TABLE.read_text())
    amounts: dict[str, list[float]] = {}
    for name, row in table.items():
        if row["memory"] > 0:
            amounts.setdefault(name.split(maxsplit=1)[1], []).append(row["l2"])
    for found in amounts.values():
        assert len(found) == len(cuda_work.DEVICES) and max(found) < 1.4 * min(found), amounts
