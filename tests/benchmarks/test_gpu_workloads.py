# SPDX-License-Identifier: Apache-2.0
"""Tests of the workloads of the GPU stages."""

from __future__ import annotations

import torch
from gpu.workloads import GPU_WORKLOADS, KEY_WORKLOADS, GpuWorkload

from stylefast.ops import BLEND


def test_the_key_workloads_are_these_eight():
    names = [f"{workload.op.name} {workload.name}" for workload in KEY_WORKLOADS]
    assert names == [
        "lloyd_step 4096x512x32x32 bfloat16 K=32",
        "lloyd_step 4096x512x32x32 float32 K=32",
        "lloyd_step 4096x512x32x32 bfloat16 K=64",
        "assign_contribution 4096x512x32x32 bfloat16 K=32",
        "contribution 4096x512x32x32 bfloat16 K=32",
        "contribution 64x64x512x512 bfloat16 K=32",
        "blend 20480x9088 float32 gathered",
        "blend 20480x9088 float32 pairs",
    ]
    assert set(names) <= {f"{workload.op.name} {workload.name}" for workload in GPU_WORKLOADS}


def test_pairs_and_gathered_edits_give_equal_shapes():
    shapes = [
        BLEND.fake(*GpuWorkload(BLEND, None, torch.float32, gathered=gathered).make("meta").values()).shape
        for gathered in (True, False)
    ]
    assert shapes[0] == shapes[1] == (20480, 9088)
