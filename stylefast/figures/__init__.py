# SPDX-License-Identifier: Apache-2.0
"""Figures of clusters, contributions and edits, as Pillow images; only `save` writes to the disk."""

from .figures import cluster_overlay, contribution_map, edit_grid, heat_map, save, to_pil

__all__ = ["cluster_overlay", "contribution_map", "edit_grid", "heat_map", "save", "to_pil"]
