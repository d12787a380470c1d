# SPDX-License-Identifier: Apache-2.0
"""Options of a job, shared by Python and the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class JobOptions:
    """Options of a job: how it renders and writes the edits of its plan.

    Args:
        image_format: Format of the image files.
        batch_size: Edits per batch, or auto. A batch is one forward pass of the generator. auto takes the batch size of
            the images with the same settings in the folder, if there are any. Otherwise a job of some hundred edits
            measures a few sizes, in at most 5 % of its time. Without a measurement, for few edits or with a shard, auto
            is 1 on a CPU and 4 on a GPU.
        measure: Whether to measure locality, which also renders the unedited targets.
        roi_mode: Region of interest of the locality: where the part is in the target, in the reference, or in the
            union of both.
        writers: Threads that encode and write images. At most twice as many images wait for them.
        resume: Whether to keep the existing images that the manifest lists. Otherwise all edits are made again.
        originals: Whether to keep the unedited images of the edits in the folders `originals/targets` and
            `originals/references`. References of which only styles are known have no image of their own.
        overwrite: Whether to replace existing images of the same names that were made with other settings. Otherwise
            the first such image is an error, before any edit is made.
        verify: Whether to compare the checksum of every existing image with the manifest. Otherwise an image with the
            right size that is older than the manifest is kept without being read.
    """

    image_format: Literal["png", "jpg", "webp"] = "png"
    batch_size: int | Literal["auto"] = "auto"
    measure: bool = False
    roi_mode: Literal["union", "target", "reference"] = "union"
    writers: int = 2
    resume: bool = True
    originals: bool = False
    overwrite: bool = False
    verify: bool = False
