# SPDX-License-Identifier: Apache-2.0
"""Gallery of a folder of edits: one static web page, which a browser opens from the disk."""

from .gallery import Gallery, write_gallery

__all__ = ["Gallery", "write_gallery"]
