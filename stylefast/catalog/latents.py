# SPDX-License-Identifier: Apache-2.0
"""Latents that a catalog is built from, as a stream and in shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor

from ..core.checks import as_tensor
from ..distributed import Ranks
from ..generators import Generator
from ..kmeans.prefetch import array_of, check_stream


class Latents:
    """Latents in shards, which are the batches of a stream or pieces of a tensor, and which of them are this rank's.

    Raises: TypeError for an iterator; ValueError for no images.
    """

    def __init__(self, w: Tensor | Iterable[Any], shard_images: int, ranks: Ranks) -> None:
        self._shards: Iterable[Any] = w.split(shard_images) if isinstance(w, Tensor) else check_stream("w", w)
        sizes = [len(array_of(batch)) for batch in self._shards]
        self.begins = [0, *accumulate(sizes)]
        self.images = self.begins[-1]
        if self.images < 1:
            raise ValueError("the rows of w must be >= 1, got 0")
        self.mine = ranks.share(len(sizes))
        self.first = self.begins[self.mine.start]
        self.n_mine = self.begins[self.mine.stop] - self.first

    def __len__(self) -> int:
        return len(self.begins) - 1

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """This rank's shards: place and latents."""
        for shard, batch in enumerate(self._shards):
            if shard in self.mine:
                yield shard, as_tensor("w", array_of(batch), "[N, D] or [N, rows, D]", 2, 3)


class LatentBatches:
    """The latents of seeds as a stream, made anew whenever it is read.

    Args:
        generator, seeds, truncation: as in `generator.latents`.
        size: seeds a batch.
    """

    def __init__(self, generator: Generator, seeds: Sequence[int], *, truncation: float = 1.0, size: int = 64) -> None:
        self.generator, self.seeds, self.truncation, self.size = generator, seeds, truncation, size

    def __iter__(self) -> Iterator[Tensor]:
        for begin in range(0, len(self.seeds), self.size):
            yield self.generator.latents(self.seeds[begin : begin + self.size], truncation=self.truncation)
