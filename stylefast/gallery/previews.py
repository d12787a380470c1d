# SPDX-License-Identifier: Apache-2.0
"""Previews: for each edit one small JPEG file with the part before and after the edit, and the whole images."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from PIL import Image

from ..io.atomic import atomic_write
from ..io.budget import check_file
from ..io.images import UNREADABLE, read_image
from .shown import ShownEdit

# From top to bottom: the part in the edit, the part in the target, and side by side the whole edit and reference.
# The style sheet of the page has the same proportions.
CROP = (384, 288)
THUMBNAIL = (192, 192)
SIZE = (CROP[0], 2 * CROP[1] + THUMBNAIL[1])
GREY = (128, 128, 128)  # where an image is missing or does not fill its place
CONTEXT = 1.3  # width and height of a crop relative to the box
QUALITY = 88
VERSION = 1  # of the previews, which are made again if it changes
# Cached images. The edits of one target are consecutive, and take turns in their references.
N_TARGETS = 4
N_REFERENCES = 512  # thumbnails, of 0.1 MB each


class Previews:
    """Previews in a folder. A preview whose images have not changed since it was made is kept.

    Args:
        directory: Folder of the edits.
        folder: Folder of the previews, which has a subfolder per image format.
    """

    def __init__(self, directory: Path, folder: Path) -> None:
        self._directory, self._folder = directory, folder
        self._target = lru_cache(N_TARGETS)(read_image)
        self._reference = lru_cache(N_REFERENCES)(_read_thumbnail)

    def path(self, edit: ShownEdit) -> str:
        """Return the path of the preview of an edit."""
        return os.path.join(self._folder, edit.image_format, f"{edit.stem}.jpg")

    def make(self, edit: ShownEdit) -> dict[str, str]:
        """Make the preview of an edit unless it exists.

        Returns:
            The images that cannot be read, with reasons. There is no preview if the image of the edit is among them.
            The place of a damaged target or reference in the preview is grey.
        """
        path, image = self.path(edit), os.path.join(self._directory, edit.file)
        problems: dict[str, str] = {}
        try:
            key = _key(image, edit)
            if _comment(path) == key:
                return {}
            sheet = self._draw(read_image(image), edit, problems)
        except UNREADABLE as error:
            return {image: _reason(error)}
        content = io.BytesIO()
        # Without its key, a preview with a grey place is made again, and the problem is reported again.
        sheet.save(content, "JPEG", quality=QUALITY, comment=b"" if problems else key)
        with atomic_write(path) as temporary:
            temporary.write_bytes(content.getvalue())
        return problems

    def _draw(self, edited: Image.Image, edit: ShownEdit, problems: dict[str, str]) -> Image.Image:
        """Return a preview. Originals that cannot be read are added to the problems."""
        sheet = Image.new("RGB", SIZE, GREY)
        sheet.paste(_crop(edited, edit.box), (0, 0))
        sheet.paste(_thumbnail(edited), (0, 2 * CROP[1]))
        target, reference = edit.originals
        with _reported(target, problems) as path:
            if path is not None:
                sheet.paste(_crop(self._target(path), edit.box), (0, CROP[1]))
        with _reported(reference, problems) as path:
            if path is not None:
                sheet.paste(self._reference(path), (THUMBNAIL[0], 2 * CROP[1]))
        return sheet


def crop_around(box: tuple[float, ...], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the rectangle with the proportions of a crop, in pixels, that shows a box and some of its surroundings.

    A rectangle that is wider or higher than the image has the image in its middle.

    Args:
        box: Left, top, right and bottom edge in fractions of the image.
        size: Width and height of the image in pixels.
    """
    extents = [min(size[axis], CONTEXT * (box[axis + 2] - box[axis]) * size[axis]) for axis in (0, 1)]
    proportion = CROP[0] / CROP[1]
    w, h = max(extents[0], extents[1] * proportion), max(extents[1], extents[0] / proportion)
    x, y = (_begin((box[axis] + box[axis + 2]) / 2 * size[axis], (w, h)[axis], size[axis]) for axis in (0, 1))
    return x, y, x + w, y + h


def _begin(centre: float, extent: float, limit: int) -> float:
    return (limit - extent) / 2 if extent >= limit else min(max(centre - extent / 2, 0.0), limit - extent)


def _crop(image: Image.Image, box: tuple[float, ...]) -> Image.Image:
    left, top, right, bottom = crop_around(box, image.size)
    scale = CROP[0] / (right - left)
    visible = max(left, 0.0), max(top, 0.0), min(right, image.width), min(bottom, image.height)
    return _resized(image, CROP, visible, (visible[2] - visible[0]) * scale, (visible[3] - visible[1]) * scale)


def _thumbnail(image: Image.Image) -> Image.Image:
    scale = min(THUMBNAIL[0] / image.width, THUMBNAIL[1] / image.height)
    whole = 0.0, 0.0, image.width, image.height
    return _resized(image, THUMBNAIL, whole, image.width * scale, image.height * scale)


def _resized(
    image: Image.Image, size: tuple[int, int], box: tuple[float, ...], width: float, height: float
) -> Image.Image:
    """Return a grey image of a size, in whose middle a box of another image is drawn with a width and height."""
    drawn = max(1, min(size[0], round(width))), max(1, min(size[1], round(height)))
    resized = image.resize(drawn, Image.Resampling.BICUBIC, box, reducing_gap=2.0)  # type: ignore[arg-type]
    if drawn == size:
        return resized
    place = Image.new("RGB", size, GREY)
    place.paste(resized, ((size[0] - drawn[0]) // 2, (size[1] - drawn[1]) // 2))
    return place


@contextmanager
def _reported(path: str | None, problems: dict[str, str]) -> Iterator[str | None]:
    """Yield the path, and add it to the problems if the block cannot read it."""
    try:
        yield path
    except UNREADABLE as error:
        if path is None:
            raise
        problems[path] = _reason(error)


def _read_thumbnail(path: str) -> Image.Image:
    return _thumbnail(read_image(path))


def _key(image: str, edit: ShownEdit) -> bytes:
    """Return a text that changes with everything that a preview shows."""
    paths = (image, *(path for path in edit.originals if path is not None))
    states = [(status.st_size, status.st_mtime_ns) for status in map(os.stat, paths)]
    present = [path is not None for path in edit.originals]
    return blake2b(repr((VERSION, edit.box, present, states)).encode(), digest_size=16).hexdigest().encode()


def _comment(path: str) -> bytes | None:
    """Return the comment of a preview, or None if there is no preview."""
    try:
        check_file(path)
        with Image.open(path, formats=("JPEG",)) as image:
            return image.info.get("comment")
    except UNREADABLE:
        return None


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if isinstance(error, Image.UnidentifiedImageError):
        return "the file is not an image"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"the file cannot be read: {text}"
