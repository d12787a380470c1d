# SPDX-License-Identifier: Apache-2.0
"""The counter of waits for a GPU finds planted waits, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from host_waits import GPU, GPUS, RealGpu, SimulatedGpu, simulated_gpu
from torch import Tensor
from torch.nn import functional as F

X = torch.arange(12.0).view(3, 4)

# Calls that wait, on a GPU tensor x with the contents X.
WAITING: dict[str, Callable[[Tensor], Any]] = {
    "tolist": lambda x: x.tolist(),
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0, 0]),
    "int": lambda x: int(x.argmax()),
    "bool": lambda x: bool((x > 3).any()),
    "if": lambda x: 1 if x.isnan().any() else 0,
    "format": lambda x: f"{x.max():g}",
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu", torch.float64),
    "copy_": lambda x: torch.empty(3, 4).copy_(x),
    "nonzero": lambda x: (x > 3).nonzero(),
    "mask": lambda x: x[x > 3],
    "mask_of_rows": lambda x: x[x[:, 0] > 3, 1:],
    "mask_on_the_left": lambda x: x.__setitem__(x[:, 0] > 3, 2 * x[:2]),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "masked_select": lambda x: x.masked_select(x > 3),
    "repeat_interleave": lambda x: x[0].repeat_interleave(x[0].long()),
    "list_as_index": lambda x: x[[0, 2]],
    "host_index": lambda x: x[torch.tensor([0, 2])],
    "upload": lambda x: x + torch.ones(3, 4).to(GPU),
    "tensor": lambda x: x[0] + torch.tensor([1.0, 2, 3, 4], device=x.device),
}
# Calls that do not wait.
RUNNING: dict[str, Callable[[Tensor], Any]] = {
    "shape": lambda x: (x.shape, len(x), x.dim(), x.numel(), x.dtype, x.device, x.is_cuda),
    "arithmetic": lambda x: (x * 2 - x.mean(0)).square().sum(1).sqrt(),
    "in_place": lambda x: x.add_(1).mul_(2),
    "slice": lambda x: x[1:, ::2] + x[0, :2],
    "slice_on_the_left": lambda x: x.__setitem__((slice(0, 2), 1), 0.0),
    "device_index": lambda x: x[x.argmax(0)],
    "rows": lambda x: torch.stack([row + 1 for row in x]),
    "dtype": lambda x: x.to(torch.float64).half(),
    "factories": lambda x: x + torch.zeros(4, device=x.device) + x.new_ones(4),
    "functional": lambda x: F.interpolate(F.normalize(x)[None, None], scale_factor=2, mode="bilinear"),
    "scalar_of_the_host": lambda x: x + torch.tensor(1.0),
    "host": lambda x: torch.ones(3)[[0, 1]].tolist(),
    "asynchronous_copy": lambda x: x.to("cpu", non_blocking=True),
}


def on(gpu: SimulatedGpu | RealGpu, call: Callable[[Tensor], Any]) -> int:
    x = gpu.put(X)
    before = len(gpu.waits)
    call(x)
    return len(gpu.waits) - before


@pytest.mark.parametrize("name", WAITING)
def test_a_planted_wait_counts_once_on_a_simulated_gpu(name: str):
    with simulated_gpu() as gpu:
        assert on(gpu, WAITING[name]) == 1


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize("name", ["tolist", "item", "bool", "cpu", "copy_", "nonzero", "mask", "list_as_index"])
def test_a_planted_wait_is_counted(device: Any, name: str):
    with device() as gpu:
        assert on(gpu, WAITING[name]) >= 1


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize("name", RUNNING)
def test_calls_that_do_not_wait_are_not_counted(device: Any, name: str):
    with device() as gpu:
        on(gpu, RUNNING[name])  # the first call may load kernels
        assert on(gpu, RUNNING[name]) == 0


def test_simulated_calls_give_the_results_of_the_cpu():
    with simulated_gpu() as gpu:
        x = gpu.put(X)
        x[1] += 2 * x[0]
        assert (x.device, (x @ x.T).device, x.cpu().device) == (GPU, GPU, torch.device("cpu"))
        assert x[1].tolist() == (X[1] + 2 * X[0]).tolist()
        assert torch.equal(x.sum(0).cpu(), X.sum(0) + 2 * X[0])
        assert torch.ones(3).to(GPU).mul_(x[:, 1]).tolist() == [1, 7, 9]
    assert X[1, 1] == 5


def test_asynchronous_copies_hold_nan_until_their_event():
    with simulated_gpu() as gpu:
        x = gpu.put(X)
        early = torch.cuda.current_stream(x.device).record_event()
        copy = x.to("cpu", non_blocking=True)
        copied = torch.cuda.current_stream(x.device).record_event()
        x.zero_()  # does not affect a copy that comes before
        early.synchronize()
        assert copy.isnan().all()
        copied.synchronize()
        assert torch.equal(copy, X) and gpu.waits == ["event", "event"]


def test_a_simulated_gpu_refuses_what_a_gpu_refuses():
    with simulated_gpu() as gpu:
        x = gpu.put(X)
        with pytest.raises(AssertionError, match="on the host and on a GPU"):
            x + X
        with pytest.raises(AssertionError, match="on the host and on a GPU"):
            torch.cat((x, X))
    with pytest.raises(AssertionError, match="outside of the simulation"):
        x + 1
