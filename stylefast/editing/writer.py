# SPDX-License-Identifier: Apache-2.0
"""Encodes and writes images in threads, and keeps the journal of what is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from ..io.atomic import atomic_write
from ..io.images import encode, to_uint8
from .manifest import Journal


class ImageWriter:
    """Writes images into a folder and the entry of each into a journal, in the order in which they are submitted.

    An image appears under its name when it is whole. When the context ends, for whatever reason, every image that was
    written has its entry.

    Args:
        directory: the folder.
        suffix: suffix of the image files, such as ".png".
        n_threads: threads that encode and write.
        on_written: called after each entry.

    Attributes:
        pool: the threads.
    """

    def __init__(self, directory: Path, suffix: str, n_threads: int, on_written: Callable[[], object]) -> None:
        self._directory, self._suffix, self._on_written = directory, suffix, on_written
        self.pool: ThreadPoolExecutor = ThreadPoolExecutor(n_threads, "stylefast-write")
        self._journal = Journal(directory)
        self._pending: deque[tuple[dict[str, Any], Future[dict[str, Any]]]] = deque()

    def submit(self, image: Tensor, entry: dict[str, Any]) -> None:
        """Hands over an image [1, 3, H, W] and its entry, which still lacks the size and checksum of the file."""
        result: Future[dict[str, Any]] = Future()
        self._pending.append((entry, result))  # before `submit`, which an interrupt may end after it has begun
        self.pool.submit(_fulfil, result, self._write, image, entry["file"])

    def wait(self, n_pending: int) -> None:
        """Returns when at most `n_pending` images are not written. Raises what a thread raised."""
        while len(self._pending) > n_pending:
            entry, result = self._pending[0]
            self._journal.add(entry | result.result())
            self._pending.popleft()  # at once: an interrupt must not have the entry added again
            self._on_written()

    def __enter__(self) -> ImageWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown()
        try:
            written = [(entry, result) for entry, result in self._pending if _succeeded(result)]
            for entry, result in written:
                self._journal.add(entry | result.result())
            for _ in written:
                self._on_written()
        finally:
            self._journal.close()

    def _write(self, image: Tensor, file: str) -> dict[str, Any]:
        encoded = encode(to_uint8(image)[0], self._suffix)
        with atomic_write(self._directory / file) as temporary:
            temporary.write_bytes(encoded)
        return {"bytes": len(encoded), "sha256": sha256(encoded).hexdigest()}


def _succeeded(result: Future[Any]) -> bool:
    return result.done() and result.exception() is None


def _fulfil(result: Future[Any], function: Callable[..., Any], *arguments: Any) -> None:
    try:
        result.set_result(function(*arguments))
    except BaseException as error:
        result.set_exception(error)
