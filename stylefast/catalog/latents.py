# SPDX-License-Identifier: Apache-2.0
"""Latents that a catalog is built from, as a stream and in shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import Tensor

from ..core.checks import as_tensor
from ..distributed import Ranks
from ..generators import Generator
from ..kmeans.prefetch import array_of, check_stream


@dataclass(frozen=True)
class LatentShards:
    """Latents in shards: the pieces of a tensor, or the batches of a stream.

    Args:
        shards: the latents of every shard; can be read again.
        starts: index of the first image of every shard, then the number of images.
        local: the shards of this rank.
    """

    shards: Iterable[Any]
    starts: list[int]
    local: range

    @classmethod
    def scan(cls, w: Tensor | Iterable[Any], shard_images: int, ranks: Ranks) -> LatentShards:
        """Reads all latents once, for the sizes of the shards.

        Args:
            w: latents [N, D] or [N, rows, D], or a stream of them whose batches become the shards.
            shard_images: images per shard of a tensor.
            ranks: divide the shards among themselves.

        Raises: TypeError for an iterator, which cannot be read again; ValueError for no images.
        """
        shards: Iterable[Any] = w.split(shard_images) if isinstance(w, Tensor) else check_stream("w", w)
        starts = [0, *accumulate(len(array_of(batch)) for batch in shards)]
        if starts[-1] < 1:
            raise ValueError("the rows of w must be >= 1, got 0")
        return cls(shards, starts, ranks.slice_of(len(starts) - 1))

    @property
    def n_images(self) -> int:
        """The number of images, over all ranks."""
        return self.starts[-1]

    @property
    def n_local_images(self) -> int:
        """The number of this rank's images."""
        return self.starts[self.local.stop] - self.starts[self.local.start]

    def local_slice(self, shard: int) -> slice:
        """The images of a shard among those of this rank."""
        first = self.starts[self.local.start]
        return slice(self.starts[shard] - first, self.starts[shard + 1] - first)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """This rank's shards: index and latents."""
        for shard, batch in enumerate(self.shards):
            if shard in self.local:
                yield shard, as_tensor("w", array_of(batch), "[N, D] or [N, rows, D]", 2, 3)


class LatentBatches:
    """The latents of seeds as a stream, computed anew whenever it is read.

    Args:
        generator: maps seeds to latents.
        seeds: seeds of the images.
        truncation: as in `Generator.latents`.
        size: seeds per batch.
    """

    def __init__(self, generator: Generator, seeds: Sequence[int], *, truncation: float = 1.0, size: int = 64) -> None:
        self._generator, self._seeds, self._truncation, self._size = generator, seeds, truncation, size

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self._seeds), self._size):
            yield self._generator.latents(self._seeds[start : start + self._size], truncation=self._truncation)
