# SPDX-License-Identifier: Apache-2.0
"""Tests of the roofline model: predictions by hand, changes of predictions, and the stored predictions."""

from __future__ import annotations

import json

import pytest
import roofline
from gpu.workloads import GPU_WORKLOADS
from roofline import DEVICES, Device, Prediction, Size

TOY = Device("toy", instructions=1e9, matrix_flops=4e9, l2=2e9, memory=1e9, copy=0.9e9)
STREAM = {"instructions": 0.5, "matrix_flops": 0.0, "l2": 1.0, "memory": 2.0}
PRODUCT = {"instructions": 1.0, "matrix_flops": 32.0, "l2": 4.0, "memory": 2.0}


def test_a_prediction_by_hand():
    assert roofline.times(STREAM, 85, TOY) == pytest.approx(
        {"instructions": 0.5e-7, "matrix_flops": 0, "l2": 0.5e-7, "memory": 2e-7}
    )
    alone = roofline.predict([STREAM], Size(85, 170), TOY)
    assert alone == Prediction(pytest.approx(2e-7), pytest.approx(170 / 0.9e9 / 2e-7), "memory")
    both = roofline.predict([STREAM, PRODUCT], Size(85, 170), TOY)
    assert both == Prediction(pytest.approx(1e-6), pytest.approx(170 / 0.9e9 / 1e-6), "matrix_flops")


def test_a_copy_on_an_h100_has_at_most_95_percent():
    copy = {"instructions": 0.0, "matrix_flops": 0.0, "l2": 2.0, "memory": 2.0}
    assert roofline.predict([copy], Size(1 << 30, 2 << 30), DEVICES["sm_90"]).share == pytest.approx(0.85 * 3.35 / 3.0)


def test_calls_sum_their_kernels():
    workload = GPU_WORKLOADS[0]
    end = f" of {workload.op.name} {workload.name}"
    table = {
        f"sm_90 split_kernel{end}": STREAM,
        f"sm_90 split_kernel#2{end}": STREAM,
        f"sm_80 split_kernel{end}": STREAM,
    }
    (first, second) = roofline.calls(table)
    assert (first[0], list(first[2])) == ("sm_80", ["split_kernel"])
    assert (second[0], list(second[2])) == ("sm_90", ["split_kernel", "split_kernel#2"])
    one, two = (roofline.predictions(table)[f"{name}{end[3:]}"]["ms"] for name in ("sm_80", "sm_90"))
    assert two == pytest.approx(2 * one * 2.039 / 3.35, rel=0.01)


def test_falls_and_rises_are_reported_and_rounding_is_not():
    stored = {"sm_90 x": {"share": 0.80}, "sm_90 gone": {"share": 0.5}}
    assert roofline.changes(stored, stored) == [] == roofline.changes({**stored, "sm_90 x": {"share": 0.79}}, stored)
    (falls,) = roofline.changes({**stored, "sm_90 x": {"share": 0.70}}, stored)
    assert falls == "sm_90 x: the predicted share of the copy bandwidth falls from 0.8 to 0.7"
    (rises,) = roofline.changes({**stored, "sm_90 x": {"share": 0.90}}, stored)
    assert "rises from 0.8 to 0.9" in rises
    assert len(roofline.changes({"sm_90 x": {"share": 0.80}, "sm_90 new": {"share": 0.5}}, stored)) == 2


def test_the_stored_predictions_follow_from_the_table():
    table, stored = (json.loads(path.read_text()) for path in (roofline.TABLE, roofline.PREDICTIONS))
    assert roofline.predictions(table) == stored
    assert len(stored) == len(DEVICES) * len(GPU_WORKLOADS)


def test_markdown_by_hand():
    stored = {
        "sm_80 blend 2x3 float32": {"ms": 1.0, "share": 0.5, "bound": "l2"},
        "gfx942 blend 2x3 float32": {"ms": 1.0, "share": 0.256, "bound": "matrix_flops"},
    }
    assert roofline.markdown(stored).splitlines() == [
        "| op | workload | A100 | MI300X |",
        "| --- | --- | --- | --- |",
        "| `blend` | 2x3 float32 | 50 % (L2) | 26 % (matrix) |",
    ]


def test_the_command_prints_the_calls_that_are_named(capsys: pytest.CaptureFixture[str]):
    roofline.main(["triton", "sm_90", "blend", "float32 pairs"])
    call, kernel = capsys.readouterr().out.splitlines()
    assert call.startswith("triton sm_90 blend 20480x9088 float32 pairs: ") and "bound by" in call
    assert kernel.startswith("    blend_kernel in ms: instructions ")
