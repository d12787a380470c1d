# SPDX-License-Identifier: Apache-2.0
"""Tests of the parser of machine code: loops, branches, slow paths, waits, and matrix instructions."""

from __future__ import annotations

import pytest
from listing import Listing, matrix_flops

NESTED = """
.text.kernel:
	//## File "/x/tiles.py", line 7 inlined at "/x/kernel.py", line 3
	//## File "/x/kernel.py", line 3
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
.L_x_1:
	//## File "/x/kernel.py", line 5
        /*0020*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0030*/               @P0 BRA `(.L_x_1) ;
        /*0040*/              @!P1 BRA `(.L_x_2) ;
        /*0050*/                   MOV R3, 0x70 ;
        /*0060*/                   CALL.REL.NOINC `($slow_path) ;
.L_x_2:
	//## File "/x/kernel.py", line 8
        /*0070*/                   BRA.U !UP0, `(.L_x_0) ;
        /*0080*/                   EXIT ;
$slow_path:
        /*0090*/                   MUFU.SQRT R3, R3 ;
        /*00a0*/                   RET.REL.NODEC R2 `(kernel) ;
.L_x_3:
        /*00b0*/                   BRA `(.L_x_3);
"""
AMD = """
	.text
kernel:                                 ; @kernel
	.loc	1 25 0 prologue_end             ; kernel.py:25:0
	s_load_dwordx2 s[2:3], s[0:1], 0x0
.LBB0_1:                                ; =>This Inner Loop Header: Depth=1
	.loc	2 43 13                         ; tiles.py:43:13 @[ kernel.py:38:26 ]
	v_mfma_f32_32x32x8_bf16 a[0:15], v[0:1], v[2:3], a[0:15]
	s_cbranch_execz .LBB0_3
; %bb.2:
	ds_read_b128 v[0:3], v4                 ; 16-byte Folded Reload
.LBB0_3:
	s_cbranch_scc1 .LBB0_1
	s_endpgm
"""


def always(i: int) -> float:
    return 1.0


def names(listing: Listing, executions: dict[int, float]) -> dict[str, float]:
    return {listing.code[i].text.split()[0]: times for i, times in executions.items()}


def test_instructions_count_by_the_loops_around_them():
    listing = Listing(NESTED)
    assert [(loop.depth, len(loop.body)) for loop in listing.loops] == [(0, 7), (1, 2)]
    executions = listing.executions([10.0, 80.0], always)
    assert sum(executions.values()) == 1 + 80 * 2 + 10 * 3 + 1  # neither the call nor the slow path
    counts = names(listing, executions)
    assert (counts["LDG.E.128"], counts["HMMA.16816.F32.BF16"], counts["EXIT"]) == (10, 80, 1)
    assert counts["CALL.REL.NOINC"] == 0 and "MUFU.SQRT" not in counts
    assert listing.total(executions, lambda text: matrix_flops(text, 1.0)) == 80 * 2 * 16 * 8 * 16


def test_addresses_instead_of_labels_give_the_same_loops():
    addresses = {".L_x_0": "0x10", ".L_x_1": "0x20", ".L_x_2": "0x70", ".L_x_3": "0xb0", "$slow_path": "0x90"}
    text = NESTED
    for label, address in addresses.items():
        text = text.replace(f"`({label})", address).replace(f"\n{label}:", "")
    assert Listing("\n".join(line.strip() for line in text.splitlines())).loops == Listing(NESTED).loops


def test_a_branch_counts_as_often_as_its_source_lines():
    listing = Listing(NESTED)
    assert listing.code[0].lines == (("tiles.py", 7), ("kernel.py", 3)) and listing.code[2].lines == (("kernel.py", 5),)
    shares = {(("kernel.py", 8),): 0.25, (("kernel.py", 3),): 0.0}
    rare = names(listing, listing.executions([10.0, 80.0], lambda i: shares.get(listing.code[i].lines, 1.0)))
    assert (rare["BRA.U"], rare["HMMA.16816.F32.BF16"], rare["LDG.E.128"]) == (2.5, 80, 10)


def test_a_call_that_never_returns_is_a_branch():
    text = NESTED.replace("MUFU.SQRT R3, R3", "BRA `(.L_x_2)").replace("@!P1 BRA `(.L_x_2)", "NOP")
    listing = Listing(text)
    counts = names(listing, listing.executions([10.0, 80.0], always))
    assert counts["CALL.REL.NOINC"] == 10 and [loop.depth for loop in listing.loops] == [0, 1]


def test_a_wait_for_a_barrier_is_not_a_loop():
    wait = "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R90"
    listing = Listing(NESTED.replace("HMMA.16816.F32.BF16 R8, R4, R6, R8", wait))
    assert [len(loop.body) for loop in listing.loops] == [7]


def test_loops_and_conditional_blocks_of_amd_are_counted():
    listing = Listing(AMD)
    assert [len(loop.body) for loop in listing.loops] == [4]
    counts = names(listing, listing.executions([6.0], lambda i: 0.5 if i == 0 else 1.0))
    assert counts == {
        "s_load_dwordx2": 0.5, "v_mfma_f32_32x32x8_bf16": 6, "s_cbranch_execz": 6, "ds_read_b128": 6,
        "s_cbranch_scc1": 6, "s_endpgm": 1,
    }  # fmt: skip
    assert listing.code[1].lines == (("tiles.py", 43), ("kernel.py", 38))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("BRA `(.L_x_1)", "BRA `(.L_x_9)", "unknown place"),
        ("EXIT", "BRX R2 -0x90", "indirect branch"),
        ("MOV R1, c[0x0][0x28]", "@P3 BRA `(.L_x_1)", "two entries"),
        (";", "", "no instructions"),
    ],
)
def test_control_flow_that_is_not_understood_is_refused(old: str, new: str, message: str):
    with pytest.raises(ValueError, match=message):
        Listing(NESTED.replace(old, new))


def test_operations_of_matrix_instructions_by_hand():
    assert matrix_flops("HMMA.1688.F32.TF32 R4, R2", 1.5) == 2 * 2 * 16 * 8 * 8 * 1.5
    assert matrix_flops("HGMMA.64x32x16.F32.BF16 R8", 1.5) == 2 * 64 * 32 * 16 / 4
    assert matrix_flops("HGMMA.64x32x8.F32.TF32 R8", 1.5) == 2 * 2 * 64 * 32 * 8 / 4
    assert matrix_flops("v_mfma_f32_16x16x16_bf16 v[0:3]", 1.5) == 2 * 16 * 16 * 16
    assert matrix_flops("v_mfma_f32_32x32x2_f32 a[0:15]", 1.5) == 8 * 2 * 32 * 32 * 2
    assert matrix_flops("FFMA R1, R2, R3, R1", 1.5) == matrix_flops("UTCHMMA gdesc[UR4]", 1.5) == 0
