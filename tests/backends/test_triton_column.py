# SPDX-License-Identifier: Apache-2.0
"""The `triton` backend without a GPU: why it cannot run and when it is chosen.

Also the tool that checks its compiled code, and the workloads that are timed on a GPU. The battery tests the results of
the backend: `make triton`, or any run on a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module

import pytest
import torch
import triton_aot
import triton_oldest
from gpu.workloads import GPU_WORKLOADS
from layers import LAYER_WORKLOADS, LayerWorkload

from stylefast.backends import triton
from stylefast.ops import INVERSE_HAAR, LAYERS, OPS, SOFT, STEPS
from stylefast.ops.op import Op

NEEDS = {"registers": 200, "shared": 65536, "spills": 0, "matrix": 8, "wide_loads": 4}


def test_triton_says_that_a_gpu_or_triton_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(triton, "INTERPRETED", False)
    assert str(triton.reason.__wrapped__()).startswith("backend 'triton' needs a GPU that torch can use")
    monkeypatch.setattr(triton, "INTERPRETED", True)
    monkeypatch.setattr(triton, "find_spec", lambda name: None)
    assert triton.reason.__wrapped__() == "backend 'triton' needs Triton, which is not installed: pip install triton"


def test_interpreted_triton_takes_cpu_tensors_only_if_named():
    script = """
import torch, stylefast
from stylefast import backends
cpu = torch.device("cpu")
print(backends.select(None, cpu))
t, r, q = torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([0.0, 0.5, 1.0])
blended = stylefast.blend(t, r, q, backend="triton")
print(blended[0].tolist())
try:
    backends.select("triton", torch.device("cuda"))
except RuntimeError as error:
    print(error)
"""
    hidden = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}
    process = subprocess.run([sys.executable, "-c", script], env=os.environ | hidden, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    chosen, blended, message = process.stdout.splitlines()
    assert chosen != "triton" and blended == "[0.0, 0.5, 1.0]"
    assert message == "backend 'triton' works on cpu tensors, got tensors on cuda"


def test_faults_of_kernels_are_reported():
    faultless = {f"sm_90 {kernel} of x": NEEDS for kernel in ("assign_kernel", "lloyd_kernel", "moments_kernel")}
    faultless["sm_90 lloyd_kernel of y"] = {**NEEDS, "spills": 208}
    assert (
        triton_aot.faults({**faultless, "sm_80 split_rows_kernel#2 of x": {**NEEDS, "matrix": 0, "wide_loads": 0}})
        == []
    )
    for name, change, message in (
        ("sm_80 pool_kernel of x", {"spills": 8}, "spills 8"),
        ("sm_90 lloyd_kernel of x", {"spills": 209}, "spills 209"),
        ("gfx942 assign_kernel of x", {"shared": 65537}, "65537 bytes of shared memory, gfx942 has 65536"),
        ("sm_100 moments_kernel of x", {"matrix": 0}, "no matrix instruction"),
        ("gfx942 lloyd_kernel of x", {"matrix": 0}, "no matrix instruction"),
        ("sm_90 blend_kernel of x", {"wide_loads": 0}, "no load of 16 bytes"),
        ("sm_100 lloyd_kernel of x", {"wide_loads": 0}, "no load of 16 bytes"),
        ("gfx942 pool_kernel of x", {"wide_loads": 0}, "no load of 16 bytes"),
    ):
        (fault,) = triton_aot.faults({**faultless, name: {**NEEDS, **change}})
        assert fault.startswith(name) and message in fault


@pytest.mark.parametrize("op", ["assign", "lloyd_step", "assign_contribution", "contribution", "blend"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_kernels_compile_for_dimensions_of_size_one(dtype: torch.dtype, op: str):
    one = torch.empty(1, 1, 1, 1, dtype=dtype, device="meta")
    label = torch.empty(1, 1, 1, dtype=torch.int32, device="meta")
    centroids = torch.empty(1, 1, 1, dtype=dtype, device="meta")
    arguments = {
        "assign": (one, centroids[0], "raw"),
        "lloyd_step": (one, centroids, "raw"),
        "assign_contribution": (one, centroids[0], "raw", True, False),
        "contribution": (torch.empty(1, 1, 2, 1, dtype=dtype, device="meta"), label, 1, True, "bilinear", False),
        "blend": (one[0, 0], one[0, 0], one[0, 0], None, None),
    }[op]
    with triton_aot.pretend(triton_aot.DEVICES["sm_90"]) as launches:
        import_module(f"stylefast.backends.triton.{op}").launch(*arguments)
    assert launches


@pytest.mark.parametrize("op", [op for op in LAYERS if "triton" in op.backends], ids=lambda op: op.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_layers_compile_for_dimensions_of_size_one(dtype: torch.dtype, op: Op):
    c = 4 if op is INVERSE_HAAR else 1
    assert triton_aot.launched(LayerWorkload(op, 1, 1, c, dtype), triton_aot.DEVICES["sm_90"])


def test_differences_between_table_and_kernels_are_reported():
    assert triton_aot.differences({"a": NEEDS}, {"a": dict(NEEDS)}) == []
    assert len(triton_aot.differences({"a": NEEDS}, {"a": {**NEEDS, "registers": 201}})) == 1
    assert len(triton_aot.differences({"a": NEEDS, "new": NEEDS}, {"a": NEEDS, "gone": NEEDS})) == 2
    expected = {"a": {**NEEDS, "instructions": 1.0}}
    assert triton_aot.differences({"a": {**NEEDS, "instructions": 0.985}}, expected) == []
    assert len(triton_aot.differences({"a": {**NEEDS, "instructions": 1.025}}, expected)) == 1
    assert len(triton_aot.differences({"a": NEEDS}, expected)) == 1


def test_predictions_below_the_stored_ones_are_reported():
    stored = {"a": {"share": 0.9}, "b": {"share": 0.9}}
    assert triton_oldest.losses({"a": {"share": 0.88}, "b": {"share": 0.95}}, stored) == []
    (loss,) = triton_oldest.losses({"a": {"share": 0.86}}, stored)
    assert loss.startswith("a: ") and "0.86" in loss


def test_the_table_covers_every_device_without_faults():
    expected = json.loads(triton_aot.TABLE.read_text())
    assert {name.split()[0] for name in expected} == set(triton_aot.DEVICES)
    assert triton_aot.faults(expected) == []


def test_matrix_instructions_and_wide_loads_are_recognised():
    sass = "HMMA.1688.F32.TF32 R4; HGMMA.64x32x8.F32.TF32 R8; LDG.E.128 R4; LDG.E R5; LDGSTS.E.BYPASS.128 [R1]; FFMA R1"
    assert len(triton_aot.MATRIX.findall(sass)) == 2 and len(triton_aot.WIDE_LOADS.findall(sass)) == 2
    amd = "v_mfma_f32_32x32x8_bf16 a[0:15]; global_load_dwordx4 v[0:3]; global_load_dword v4; buffer_load_dwordx4 v5"
    assert len(triton_aot.MATRIX.findall(amd)) == 1 and len(triton_aot.WIDE_LOADS.findall(amd)) == 2


def test_layer_workloads_cover_the_other_triton_kernels():
    names = {(workload.op.name, workload.name) for workload in LAYER_WORKLOADS}
    assert len(names) == len(LAYER_WORKLOADS)
    assert {op for op, _ in names} == {op.name for op in (*STEPS, *LAYERS) if "triton" in op.backends}
    for workload in LAYER_WORKLOADS:
        x, *others = workload.make("meta").values()
        assert x.numel() == workload.elements and workload.op.fake(x, *others).numel() > 0


def test_gpu_workloads_have_unique_names_and_cover_all_ops():
    names = [(workload.op.name, workload.name) for workload in GPU_WORKLOADS]
    assert len(set(names)) == len(names) and {op for op, _ in names} == {op.name for op in (*OPS, *SOFT)}
    for workload in GPU_WORKLOADS:
        inputs = workload.make("meta", 1024)
        assert workload.op.cost(*inputs.values()).bytes > 0 and workload.op.fake(*inputs.values()) is not None
