# SPDX-License-Identifier: Apache-2.0
"""Waits of the host for a GPU: counted on a GPU, and on a simulated GPU that every machine has."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from stylefast.generators import Generator

GPU = torch.device("cuda", 0)
READS = {  # ops that read values of a GPU tensor on the host, for example to find the shape of the result
    "_local_scalar_dense", "_unique2", "allclose", "equal", "is_nonzero", "masked_select", "nonzero",
    "repeat_interleave", "unique_consecutive", "unique_dim",
}  # fmt: skip
COPIES = (Tensor.to, Tensor.cpu, Tensor.copy_)
INDEXING = (Tensor.__getitem__, Tensor.__setitem__)
INPUTS = (torch.tensor, torch.as_tensor)  # functions that copy host data to the device that is their argument


class OnGpu(Tensor):
    """Tensor of a `SimulatedGpu`. It has the contents of a tensor on the CPU."""

    contents: Tensor

    @staticmethod
    def __new__(cls, contents: Tensor) -> OnGpu:
        shell = Tensor._make_wrapper_subclass(cls, contents.shape, dtype=contents.dtype, device="meta")
        shell.contents = contents
        return shell

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} has a tensor of a simulated GPU outside of the simulation")

    __torch_dispatch__ = __torch_function__  # type: ignore[assignment]


class _Reads(TorchDispatchMode):
    """Records the ops that a call on the contents of GPU tensors consists of, if they would wait on a GPU."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masks = name in ("index", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in READS or masks:
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


class SimulatedGpu(TorchFunctionMode):
    """Runs Python calls with `OnGpu` tensors on the CPU, and records the calls that would wait for a GPU.

    An asynchronous copy to the host gives NaN, or ones if its dtype has no NaN, until the event that is recorded after
    it has been waited for.

    Attributes:
        waits: Names of the calls that waited, in order. Copies from the host count, because they wait, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.backend = "reference"
        self._copies: list[tuple[Tensor, Tensor]] = []  # destination and contents of copies without an event

    def put(self, tensor: Tensor) -> Tensor:
        """Return a copy of a tensor on the simulated GPU."""
        return OnGpu(tensor.detach().clone())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        on_gpu = [x for x in tree_leaves((args, kwargs)) if isinstance(x, OnGpu)]
        if func in COPIES:
            return self._copy(func, args, kwargs)
        if not on_gpu and not _is_gpu(kwargs.get("device")):
            return func(*args, **kwargs)
        if func in (Tensor.device.__get__, Tensor.is_cuda.__get__):
            return GPU if func == Tensor.device.__get__ else True
        if func is Tensor.__iter__:
            return iter(torch.unbind(args[0]))
        self._check_devices(func, args, kwargs)
        with _Reads(self.waits):
            result = func(*_contents(args), **_contents(kwargs))
        known = {id(x.contents): x for x in on_gpu}  # calls in place return an argument
        return tree_map(lambda x: known.get(id(x), OnGpu(x)) if isinstance(x, Tensor) else x, result)

    def _check_devices(self, func: Any, args: Any, kwargs: Any) -> None:
        """Record a call that copies host data, and refuse tensors on the host where a GPU would."""
        on_host = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and not isinstance(x, OnGpu)]
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__) or func in INPUTS and not isinstance(args[0], OnGpu):
            self.waits.append(func.__name__)
        elif func in INDEXING:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if on_host or any(isinstance(i, list) for i in index):
                self.waits.append(f"{func.__name__} of an index on the host")
        elif any(x.dim() for x in on_host):
            raise AssertionError(f"{func.__name__} has tensors on the host and on a GPU")

    def _copy(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run `to`, `cpu` or `copy_`, and record it if it copies from one device to the other."""
        source = args[1] if func is Tensor.copy_ else args[0]
        from_gpu = to_gpu = isinstance(source, OnGpu)
        if func is Tensor.copy_:
            to_gpu = isinstance(args[0], OnGpu)
        elif devices := [x for x in (*args[1:], *kwargs.values()) if isinstance(x, (str, torch.device))]:
            to_gpu = _is_gpu(devices[0])
        elif func is Tensor.cpu:
            to_gpu = False
        result = func(*_contents(args), **_contents(kwargs))
        if result is _contents(args[0]) and (from_gpu == to_gpu or func is Tensor.copy_):
            result = args[0]
        elif to_gpu or from_gpu:
            result = OnGpu(result.clone()) if to_gpu else result.clone()
        if from_gpu and not to_gpu and kwargs.get("non_blocking"):
            self._copies.append((result, result.clone()))
            result.fill_(torch.nan if result.is_floating_point() else 1)
        elif from_gpu != to_gpu:
            self.waits.append(f"{func.__name__} {'a GPU' if to_gpu else 'the host'}")
        return result

    def current_stream(self, device: torch.device) -> SimpleNamespace:
        """Return the part of a stream of torch that records events."""
        return SimpleNamespace(record_event=self._record_event)

    def _record_event(self) -> SimpleNamespace:
        copies, self._copies = self._copies, []

        def synchronize() -> None:
            self.waits.append("event")
            for destination, contents in copies:
                destination.copy_(contents)

        return SimpleNamespace(synchronize=synchronize)


class RealGpu:
    """Counts the waits for a GPU. Waits for an event are not among them."""

    backend = None

    def __init__(self, caught: list[warnings.WarningMessage]) -> None:
        self._caught = caught

    @property
    def waits(self) -> list[str]:
        messages = [str(warning.message) for warning in self._caught]
        return [message for message in messages if "called a synchronizing" in message]

    def put(self, tensor: Tensor) -> Tensor:
        return tensor.to(GPU)


@contextmanager
def simulated_gpu() -> Iterator[SimulatedGpu]:
    gpu = SimulatedGpu()
    with gpu, mock.patch("torch.cuda.current_stream", gpu.current_stream):
        yield gpu


@contextmanager
def real_gpu() -> Iterator[RealGpu]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)  # cumsum has no deterministic algorithm on GPUs
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield RealGpu(caught)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(deterministic)


_NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
GPUS = [pytest.param(simulated_gpu, id="simulated"), pytest.param(real_gpu, id="cuda", marks=_NO_GPU)]


def move(generator: Generator, gpu: SimulatedGpu | RealGpu) -> Generator:
    """Move a generator to a GPU and return it."""
    _ = generator.fingerprint  # read before the weights are on the GPU
    for module in generator.network.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: gpu.put(tensor.detach()) for name, tensor in tensors.items() if tensor is not None})
    generator.device = GPU
    return generator


def _is_gpu(device: Any) -> bool:
    return isinstance(device, (str, torch.device)) and str(device).startswith("cuda")


def _contents(tree: Any) -> Any:
    """Replace tensors on the simulated GPU by their contents, and the device by the CPU."""

    def replace(x: Any) -> Any:
        return x.contents if isinstance(x, OnGpu) else torch.device("cpu") if _is_gpu(x) else x

    return tree_map(replace, tree)
