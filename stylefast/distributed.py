# SPDX-License-Identifier: Apache-2.0
"""Processes that share a job: this process alone, or the ranks of a `torch.distributed` group."""

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
    """Collectives over the processes that share a job.

    Every rank must make the same calls in the same order. gloo reduces on the CPU, NCCL on the current GPU.

    Args:
        group: Process group, such as `torch.distributed.group.WORLD`. The default is this process alone. No method
            communicates then.

    Attributes:
        group: Process group of the constructor.
        rank: Rank of this process, from 0.
        size: Number of processes.

    Example:
        >>> from stylefast.distributed import Ranks
        >>> Ranks().gather("this process")
        ['this process']
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank: int = 0 if group is None else dist.get_rank(group)
        self.size: int = 1 if group is None else dist.get_world_size(group)

    def total(self, *tensors: Tensor) -> list[Tensor]:
        """Return the sums of tensors over all ranks.

        The sums are computed in one all-reduce in float64, so they have the same bits on every rank.

        Args:
            *tensors: Tensors with the same shapes and dtypes on all ranks.

        Returns:
            The sums, with the shapes, dtypes and device of the tensors. Without a group, the tensors themselves.
        """
        if self.size == 1:
            return list(tensors)
        flat = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
        on_gpu = dist.get_backend(self.group) == "nccl"
        reduced = flat.to("cuda" if on_gpu else "cpu")
        dist.all_reduce(reduced, group=self.group)
        parts = reduced.to(flat.device).split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in the order of the ranks.

        Args:
            value: Any object that can be pickled.

        Returns:
            List with one value per rank.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0 on every rank.

        Args:
            value: Any object that can be pickled.

        Returns:
            The value of rank 0.
        """
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, group=self.group, group_src=0)
        return values[0]

    def slice_of(self, n: int) -> range:
        """Return the part of `range(n)` that this rank processes.

        Args:
            n: Number of items that all ranks process together.

        Returns:
            Consecutive indices. The parts of all ranks, in the order of the ranks, are `range(n)`.
        """
        return range(self.rank * n // self.size, (self.rank + 1) * n // self.size)


ALONE = Ranks()


@contextmanager
def process_group(device: str = "cpu") -> Iterator[tuple[dist.ProcessGroup | None, torch.device]]:
    """Create the group of the processes that torchrun started, and destroy it at the end of the `with` block.

    Args:
        device: "cpu" for gloo, or "cuda" for NCCL and one GPU per process. Without torchrun, "cuda:N" selects a GPU.

    Yields:
        The group and the device of this process; None and `device` if torchrun did not start the process.

    Raises:
        ValueError: If the name of the device is invalid, or torch finds no GPU.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"torch {torch.__version__} finds no GPU, got device {device!r}")
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
