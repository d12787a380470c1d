# SPDX-License-Identifier: Apache-2.0
"""The processes that work on one job: this process alone, or the ranks of a `torch.distributed` group."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class Ranks:
    """Collectives over the processes that work on one job. Without a group they return the argument.

    Every rank must make the same calls in the same order. gloo reduces on the CPU, NCCL on the current GPU.

    Args:
        group: a process group, such as `torch.distributed.group.WORLD`; None is this process alone.

    Attributes:
        group: as given.
        rank: rank of this process, from 0.
        size: number of processes.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank: int = 0 if group is None else dist.get_rank(group)
        self.size: int = 1 if group is None else dist.get_world_size(group)

    def total(self, *tensors: Tensor) -> list[Tensor]:
        """The sums over all ranks, in one all-reduce of float64: the same bits on every rank."""
        if self.size == 1:
            return list(tensors)
        flat = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
        on_gpu = dist.get_backend(self.group) == "nccl"
        reduced = flat.to("cuda" if on_gpu else "cpu")
        dist.all_reduce(reduced, group=self.group)
        parts = reduced.to(flat.device).split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, rank 0's first."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def broadcast(self, value: T) -> T:
        """The value of rank 0."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, group=self.group, group_src=0)
        return values[0]

    def slice_of(self, n: int) -> range:
        """The part of range(n) that this rank processes. The parts of all ranks, in order, are range(n)."""
        return range(self.rank * n // self.size, (self.rank + 1) * n // self.size)


ALONE = Ranks()


@contextmanager
def process_group(device: str = "cpu") -> Iterator[tuple[dist.ProcessGroup | None, torch.device]]:
    """The group of the processes that `torchrun` started and this process' device; without torchrun None and `device`.

    Args:
        device: "cpu" (gloo), or "cuda" (NCCL) for each process' own GPU.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device must be cpu, cuda or cuda:0 and so on, got {device!r}")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"torch {torch.__version__} finds no GPU here, got device {device!r}")
    rank_device = torch.device(device)
    if not dist.is_torchelastic_launched():
        yield None, rank_device
        return
    if rank_device.type == "cuda":
        rank_device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(rank_device)
    dist.init_process_group("nccl" if rank_device.type == "cuda" else "gloo")
    try:
        yield dist.group.WORLD, rank_device
    finally:
        dist.destroy_process_group()
