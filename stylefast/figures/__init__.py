# SPDX-License-Identifier: Apache-2.0
"""Figures of clusters, contributions and edits, as Pillow images; only `save` writes to the disk.

Images are torch tensors [N, C, H, W] in [0, 1] on any device: grey, RGB or RGBA, which figures composite over white.
Each is a tile whose longer side has `cell` pixels, resized by Lanczos. Names are in Pillow's typeface, which is ASCII.
"""

from .closeups import mask_boxes
from .edits import edit_grid
from .epsilon import epsilon_row
from .figures import cluster_overlay, contribution_map, save, to_pil
from .heat import heat_map
from .memberships import membership_maps
from .outlines import label_size
from .sheets import image_sheet

__all__ = [
    "cluster_overlay",
    "contribution_map",
    "edit_grid",
    "epsilon_row",
    "heat_map",
    "image_sheet",
    "label_size",
    "mask_boxes",
    "membership_maps",
    "save",
    "to_pil",
]
