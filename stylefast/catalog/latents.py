# SPDX-License-Identifier: Apache-2.0
"""Latents of the images that a catalog is built from, as a stream and in shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice, repeat
from typing import Any

import numpy as np
from torch import Tensor

from ..core.checks import as_tensor, to_tensor
from ..core.dtypes import Array
from ..distributed import Ranks
from ..generators import Generator
from ..kmeans.prefetch import array_of, check_stream

MAX_SHARDS = 1 << 20  # shards of a build, whose sizes are in memory


@dataclass(frozen=True)
class LatentShards:
    """Latents in shards: slices of an array, or the batches of a stream.

    Args:
        shards: Latents of every shard; an iterable that can be read again.
        starts: Index of the first image of every shard, followed by the number of images.
        local: Indices of the shards of this rank.
    """

    shards: Iterable[Any]
    starts: list[int]
    local: range

    @classmethod
    def scan(cls, w: Array | Iterable[Any], shard_images: int, ranks: Ranks) -> LatentShards:
        """Find the sizes of the shards. A stream is read once for this, unless it knows them.

        Args:
            w: Latents of shape [N, D] or [N, rows, D], or a stream of them whose batches become the shards.
            shard_images: Images per shard, if `w` is an array.
            ranks: Ranks that share the shards.

        Raises:
            TypeError: If `w` is an iterator, which cannot be read again.
            ValueError: If there are no images.
        """
        is_array = isinstance(w, (Tensor, np.ndarray))
        shards: Iterable[Any] = to_tensor("w", w).split(shard_images) if is_array else check_stream("w", w)
        sizes = w.sizes if isinstance(w, LatentBatches) else (len(array_of(batch)) for batch in shards)
        starts = [0, *accumulate(islice(sizes, MAX_SHARDS + 1))]
        if len(starts) - 1 > MAX_SHARDS:
            raise ValueError(f"shard_images must give at most {MAX_SHARDS:,} shards, got {shard_images}")
        if starts[-1] < 1:
            raise ValueError("w must hold at least one latent, got none")
        return cls(shards, starts, ranks.slice_of(len(starts) - 1))

    @property
    def n_images(self) -> int:
        """Number of images of all ranks."""
        return self.starts[-1]

    @property
    def n_local_images(self) -> int:
        """Number of images of this rank."""
        return self.starts[self.local.stop] - self.starts[self.local.start]

    def local_slice(self, shard: int) -> slice:
        """Return the positions of a shard's images among the images of this rank."""
        first = self.starts[self.local.start]
        return slice(self.starts[shard] - first, self.starts[shard + 1] - first)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the index and the latents of every shard of this rank."""
        for shard, batch in enumerate(self.shards):
            if shard in self.local:
                yield shard, as_tensor("w", array_of(batch), "[N, D] or [N, rows, D]", 2, 3)


class LatentBatches:
    """Stream of the latents of seeds, which are computed again whenever the stream is read.

    Args:
        generator: Generator that maps seeds to latents.
        seeds: Seeds of the images.
        truncation: Truncation ψ, as in `Generator.latents`.
        size: Seeds per batch.
    """

    def __init__(self, generator: Generator, seeds: Sequence[int], *, truncation: float = 1.0, size: int = 64) -> None:
        self._generator, self._seeds, self._truncation, self._size = generator, seeds, truncation, size

    @property
    def sizes(self) -> Iterator[int]:
        """Numbers of latents of the batches."""
        n_full, rest = divmod(len(self._seeds), self._size)
        return chain(repeat(self._size, n_full), (rest,) if rest else ())

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self._seeds), self._size):
            yield self._generator.latents(self._seeds[start : start + self._size], truncation=self._truncation)
