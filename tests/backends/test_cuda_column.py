# SPDX-License-Identifier: Apache-2.0
"""The `cuda` backend without a GPU: why it cannot run, when it is chosen, and the tool that checks its compiled code.

`make cuda` and, on a GPU, the battery test its results.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cuda_aot
import pytest
import torch
from listing import Listing

from stylefast import backends
from stylefast.backends import BACKENDS, native

NEEDS = {
    "registers": 128, "shared": 0, "spills": 0, "matrix": 8, "wide_loads": 4, "asynchronous": 8, "generic": 0,
    "in_loops": 500,
}  # fmt: skip


@pytest.fixture
def without_cached_reasons() -> None:
    """Clear the cached reasons before and after a test."""
    native.cuda_reason.cache_clear()
    native.cuda_supports.cache_clear()
    yield
    native.cuda_reason.cache_clear()
    native.cuda_supports.cache_clear()


@pytest.mark.usefixtures("without_cached_reasons")
def test_cuda_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def reason() -> str | None:
        native.cuda_reason.cache_clear()
        return native.cuda_reason()

    monkeypatch.setattr(torch.version, "cuda", None)
    assert reason() == f"backend 'cuda' needs a torch built for CUDA, got {torch.__version__}"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(native, "CUDA_LIBRARY", tmp_path / "lib.so")
    assert str(reason()) == (
        f"backend 'cuda' was not built in the checkout {native.ROOT}, which is used here: "
        "install the CUDA toolkit (nvcc), then run `pip install --no-build-isolation -e .` there"
    )
    monkeypatch.setattr(native, "ROOT", tmp_path)
    sentence = "backend 'cuda' was not built: install the CUDA toolkit (nvcc), then install stylefast again"
    assert reason() == sentence
    (tmp_path / "lib.so").write_bytes(b"no library")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert reason() == "backend 'cuda' needs an NVIDIA GPU that torch can use"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert str(reason()).startswith(f"backend 'cuda' cannot be loaded with torch {torch.__version__}: ")


@pytest.mark.usefixtures("without_cached_reasons")
def test_triton_comes_before_cuda_on_gpus(monkeypatch: pytest.MonkeyPatch):
    assert list(BACKENDS) == ["cpu", "triton", "cuda", "reference"]
    old, new = torch.device("cuda", 0), torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5) if device == old else (9, 0))
    for name in ("cuda", "triton"):
        column = replace(BACKENDS[name], reason=lambda: None, devices=("cuda",), automatic=True)
        monkeypatch.setitem(BACKENDS, name, column)
    assert backends.select(None, new) == "triton" and backends.select("cuda", new) == "cuda"
    message = "^backend 'cuda' needs a GPU of compute capability 8.0 or later, cuda:0 has 7.5$"
    with pytest.raises(RuntimeError, match=message):
        backends.select("cuda", old)
    monkeypatch.setitem(BACKENDS, "triton", replace(BACKENDS["triton"], reason=lambda: "backend 'triton' is missing"))
    assert backends.select(None, new) == "cuda"
    backends._warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="backend 'triton' is missing; backend 'cuda' needs a GPU of compute"):
        assert backends.select(None, old) == "reference"


def on_every_device(kernel: str, **change: int) -> dict[str, dict[str, int]]:
    return {f"{device} {kernel}": {**NEEDS, **change} for device in cuda_aot.DEVICES}


def test_faults_of_kernels_are_reported():
    assert cuda_aot.faults(on_every_device("mean_kernel<float>", matrix=0, wide_loads=0)) == []
    assert cuda_aot.faults(on_every_device("blend_kernel<half, false>", wide_loads=0)) == []
    assert cuda_aot.faults(on_every_device("assign_kernel<half, false>", matrix=0)) == []
    for kernel, change, message in (
        ("mean_kernel<double>", {"spills": 8}, "touches local memory"),
        ("lloyd_kernel<bfloat16, true>", {"matrix": 0}, "no matrix instruction"),
        ("blend_kernel<half, true>", {"wide_loads": 0}, "no load of 16 bytes"),
        ("moments_kernel<float, true, 2>", {"wide_loads": 0}, "no load of 16 bytes"),
        ("pool_kernel<half, true>", {"asynchronous": 0}, "no asynchronous copy"),
        ("lloyd_finish_kernel<float>", {"generic": 8}, "has 8 generic loads and stores"),
    ):
        faults = cuda_aot.faults(on_every_device(kernel, **change))
        assert len(faults) == len(cuda_aot.DEVICES) and all(message in fault for fault in faults)
    hopper = "sm_90 hopper_lloyd_kernel<half>"
    faultless = {"matrix": 20, "group_ends": 5, "bulk_loads": 1}
    for change, message in (
        ({}, None),
        ({"matrix": 0, "group_ends": 0}, "no bulk load or no matrix instruction"),
        ({"bulk_loads": 0}, "no bulk load or no matrix instruction"),
        ({"group_ends": 6}, "waits for every matrix instruction"),
    ):
        table = {**on_every_device("mean_kernel<float>"), hopper: {**NEEDS, **faultless, **change}}
        assert [message in fault for fault in cuda_aot.faults(table)] == [True] * (message is not None)
    assert cuda_aot.faults({"sm_90 mean_kernel<float>": NEEDS}) == ["sm_80: no kernels", "sm_100: no kernels"]


def listing(code: str) -> Listing:
    return Listing("\n".join(f"/*{16 * i:04x}*/  {text} ;" for i, text in enumerate(code.split("; "))))


def test_resources_are_read_from_the_disassembly():
    name = "sm_90 mean_kernel<float>"
    fields = "REG:32 STACK:16 SHARED:1024 LOCAL:4 CONSTANT[0]:8"
    usage = f"arch = sm_90\n Function _ZN9stylefast11mean_kernelIfEEvPKT_:\n  {fields}\n"
    code = (
        "LDG.E.128 R4, [R2]; HMMA.16816.F32.BF16 R4; LDL R1, [R2]; STL.64 [R1], R2; LDG.E R5, [R2]; LDS.64 R6, [R2]; "
        "LDGSTS.E.64 [R3], [R2.64]; LD.E.128 R4, [R2.64]; ST.E [R2.64], R4; STG.E [R2.64], R4; ATOM.E.ADD R1, [R2]; "
        "@P0 BRA 0x10; EXIT"
    )
    expected = {
        "registers": 32, "shared": 1024, "spills": 22, "matrix": 1, "wide_loads": 1, "asynchronous": 1, "generic": 3,
        "in_loops": 11,
    }  # fmt: skip
    assert cuda_aot.needs(usage, {name: listing(code)}) == {name: expected}
    hopper = "HGMMA.64x96x16.F32.BF16 R24, gdesc[UR8], R24; HGMMA.64x96x16 R24, gdesc[UR8], R24, gsb0; UTMALDG.3D [UR8]"
    (needs,) = cuda_aot.needs(usage.replace("sm_90", "sm_90a"), {name: listing(hopper)}).values()
    assert (needs["matrix"], needs["group_ends"], needs["bulk_loads"]) == (2, 1, 1)


def test_the_table_covers_every_device_without_faults():
    assert cuda_aot.faults(json.loads(cuda_aot.TABLE.read_text())) == []
