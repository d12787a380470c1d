# SPDX-License-Identifier: Apache-2.0
"""Copies of rendered batches to the host, which run while the device computes the next batch."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from ..core.boxes import box_around
from ..io.images import to_uint8, to_uint8_tensor
from ..locality import Locality
from .renderer import EditBatch


class Download:
    """Copy of the images, the locality and the regions of a batch to the host.

    Images on a GPU become bytes there, which are a quarter of the data, and are copied into pinned memory. The
    constructor starts the copies without waiting for them. Images on a CPU are not copied.

    Args:
        batch: Rendered batch.

    Attributes:
        is_asynchronous: Whether the batch may still be computed or copied.
    """

    def __init__(self, batch: EditBatch) -> None:
        images, measured = batch.images, batch.locality
        self._locality = (
            None if measured is None else torch.stack(list(measured)).to("cpu", non_blocking=True)
        )  # [5, E]
        self._region = (
            None if batch.roi is None else [batch.roi.sum(axis).to("cpu", non_blocking=True) for axis in (1, 2)]
        )  # [E, w], [E, h]
        self.is_asynchronous: bool = images.is_cuda
        self._images = images
        if self.is_asynchronous:
            self._images = to_uint8_tensor(images).to("cpu", non_blocking=True)  # [E, H, W, C]
            self._has_nan = images.isnan().flatten(1).any(1).to("cpu", non_blocking=True)  # [E]
            self._copied = torch.cuda.current_stream(images.device).record_event()

    def pixels(self, i: int) -> np.ndarray:
        """Wait for the copy of image i and return its pixels [H, W, C], uint8.

        Raises:
            ValueError: If the image contains NaN.
        """
        if not self.is_asynchronous:
            return to_uint8(self._images[i : i + 1])[0]
        self._copied.synchronize()
        if self._has_nan[i]:
            raise ValueError(f"images must not hold NaN, got some in image {i} of a batch")
        return self._images[i].numpy()

    def locality(self, i: int) -> dict[str, float | None] | None:
        """Wait for the copies and return the locality of edit i by name, or None if it was not measured.

        Values that are not finite are None.
        """
        if self._locality is None:
            return None
        if self.is_asynchronous:
            self._copied.synchronize()
        values = dict(zip(Locality._fields, self._locality[:, i].tolist(), strict=True))
        return {name: value if math.isfinite(value) else None for name, value in values.items()}

    def box(self, i: int) -> list[float] | None:
        """Wait for the copies and return the box around the region of edit i, as `box_around` does.

        It is None if the region is unknown or empty.
        """
        if self._region is None:
            return None
        if self.is_asynchronous:
            self._copied.synchronize()
        columns, rows = (weights[i].tolist() for weights in self._region)
        return box_around(columns, rows)


class DownloadedImage(NamedTuple):
    """Image i of a batch that is copied to the host."""

    download: Download
    i: int

    def pixels(self) -> np.ndarray:
        """Return the pixels as `Download.pixels` does."""
        return self.download.pixels(self.i)

    def measured(self) -> dict[str, Any]:
        """Return the fields of an entry that are measured: `locality`, and `box` if the region is known."""
        locality = self.download.locality(self.i)
        return {"locality": locality} if locality is None else {"locality": locality, "box": self.download.box(self.i)}
