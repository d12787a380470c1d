# SPDX-License-Identifier: Apache-2.0
"""Files that the page serves to browsers.

Gradio writes the file of an image again whenever an equal image is shown, also while a browser reads it. These files
are written once.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import numpy as np
from gradio.blocks import Block

from ..io.atomic import atomic_write
from ..io.images import encode


def serve_file(block: Block, content: bytes, name: str) -> Path:
    """Return a file with the content that the page serves until it expires.

    Args:
        block: Element of the page that shows the file.
        content: Content of the file.
        name: Name of the file.
    """
    path = Path(block.GRADIO_CACHE).resolve() / sha256(content).hexdigest() / name
    try:
        os.utime(path)  # a file that is shown again must not expire, nor be replaced while a browser reads it
    except FileNotFoundError:
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    block.temp_files.add(str(path))
    return path


def serve_image(block: Block, pixels: np.ndarray, suffix: str = ".jpg") -> str:
    """Return the path of a file of an image that the page serves.

    Args:
        block: Element of the page that shows the image.
        pixels: Image [H, W, 3] uint8.
        suffix: Suffix of the file, as `encode` accepts it.
    """
    return str(serve_file(block, encode(pixels, suffix), f"image{suffix}"))
