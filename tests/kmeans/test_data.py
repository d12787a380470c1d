# SPDX-License-Identifier: Apache-2.0
"""`Points`: the constructor only stores arguments, `scan` counts points, `gather` does not depend on the batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
import torch
from mixtures import mixture, rows
from torch import Tensor
from torch.nn.functional import normalize

from stylefast.distributed import ALONE, Ranks
from stylefast.kmeans.data import Points


class Unreadable:
    """A stream that must not be read."""

    def __iter__(self) -> NoReturn:
        raise AssertionError("the stream was read")


class Silent(Ranks):
    """Two ranks that must not communicate."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 2

    def _refuse(self, *arguments: Any) -> NoReturn:
        raise AssertionError("a collective was called")

    total = gather = broadcast = _refuse


class Counting:
    """A stream that counts how often it is read."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches, self.n_reads = batches, 0

    def __iter__(self) -> Iterator[Tensor]:
        self.n_reads += 1
        return iter(self.batches)


class SecondOfThree(Ranks):
    """Rank 1 of 3. Rank 0 has 2 points, of which 1 is nonzero; rank 2 has 4, of which 3 are nonzero."""

    def __init__(self) -> None:
        super().__init__()
        self.rank, self.size = 1, 3

    def gather(self, value: Any) -> list[Any]:
        kinds = isinstance(value[1], torch.dtype)
        return [value] * 3 if kinds else [(2, 1), value, (4, 3)]


def scan(data: Any, ranks: Ranks = ALONE) -> Points:
    return Points.scan(data, "raw", None, ranks, torch.Generator().manual_seed(0))


def data() -> Tensor:
    x = mixture(5, 4, 3, 3, 3, 1.0).float()
    x[1, :, 0, 2] = x[3] = 0
    return x


def test_constructor_neither_reads_nor_communicates():
    probes = torch.ones(4, 8)
    points = Points(Unreadable(), "raw", None, Silent(), 8, torch.float32, probes.device, probes, 9, 20, 18, 7)
    assert (points.channels, points.n_local, points.n_points, points.n_nonzero) == (8, 9, 20, 18)
    assert points.nonzero_offset == 7 and not points.in_memory
    with pytest.raises(AssertionError, match="the stream was read"):
        points.step(torch.eye(8)[None])
    with pytest.raises(AssertionError, match="the stream was read"):
        scan(Unreadable())
    with pytest.raises(AssertionError, match="a collective was called"):
        scan(data(), Silent())


@pytest.mark.parametrize("sizes", [[5], [2, 3], [1, 0, 3, 1]], ids=str)
def test_scan_counts_points_of_any_batches(sizes: list[int]):
    stream = Counting(list(data().split(sizes)))
    points = scan(stream)
    assert stream.n_reads == 2  # the first batch, then all batches
    assert (points.channels, points.dtype, points.device) == (4, torch.float32, torch.device("cpu"))
    assert (points.n_local, points.n_points, points.n_nonzero, points.nonzero_offset) == (45, 45, 35, 0)
    assert points.probes.shape == (4, 4) and scan(data()).in_memory


def test_scan_adds_the_counts_of_all_ranks():
    points = scan(data(), SecondOfThree())
    assert (points.n_local, points.n_points, points.n_nonzero, points.nonzero_offset) == (45, 51, 39, 1)


@pytest.mark.parametrize("sizes", [[5], [2, 3], [1, 0, 3, 1]], ids=str)
def test_gather_takes_nonzero_points_for_any_batches(sizes: list[int]):
    points, units = rows(data()), scan(list(data().split(sizes))).gather(torch.tensor([34, 0, 7, 8]))
    nonzero = points[points.norm(dim=1) > 0]
    torch.testing.assert_close(units, normalize(nonzero[[34, 0, 7, 8]], dim=1))
