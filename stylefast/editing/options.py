# SPDX-License-Identifier: Apache-2.0
"""Options of a job, shared by Python and the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class JobOptions:
    """How a job renders and writes the edits of its plan.

    Args:
        image_format: format of the image files.
        batch_size: edits per batch, which is one forward pass of the generator.
        measure: whether to measure locality, which also renders the unedited targets.
        roi_mode: where a part is: in the target, in the reference, or in the union of both.
        writers: threads that encode and write images; at most twice as many images wait for them.
        resume: whether to keep the images that the manifest lists; otherwise all edits are made again.
        verify: whether to read every image that is kept and compare its checksum with the manifest's, even if the
            image was last modified before the manifest.
    """

    image_format: Literal["png", "jpg", "webp"] = "png"
    batch_size: int = 4
    measure: bool = False
    roi_mode: Literal["union", "target", "reference"] = "union"
    writers: int = 2
    resume: bool = True
    verify: bool = False
