# SPDX-License-Identifier: Apache-2.0
"""Writing of images in threads, with a journal of the written images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from ..io.atomic import atomic_write
from ..io.images import encode
from .download import DownloadedImage
from .journal import Journal


class _Written(NamedTuple):
    """Results of an image, and the time in nanoseconds at which it was written."""

    results: dict[str, Any]
    modified: int


class ImageWriter:
    """Context that writes images into a folder and their entries into a journal, in the order of submission.

    An image gets its name only after it has been written completely. When the context ends, normally or by an
    exception, every written image has an entry.

    Args:
        directory: Folder for the images.
        journal: Journal for the entries.
        suffix: Suffix of the image files, such as ".png".
        n_threads: Number of threads that encode and write.
        on_written: Function that is called after each entry.

    Attributes:
        pool: The threads.
    """

    def __init__(
        self, directory: Path, journal: Journal, suffix: str, n_threads: int, on_written: Callable[[], object]
    ) -> None:
        self._directory, self._suffix, self._on_written = directory, suffix, on_written
        self.pool: ThreadPoolExecutor = ThreadPoolExecutor(n_threads, "stylefast-write")
        self._journal = journal
        self._pending: deque[tuple[dict[str, Any], Future[_Written]]] = deque()

    def submit(self, image: DownloadedImage, entry: dict[str, Any]) -> None:
        """Submit an image and its entry, to which the size and checksum of the file and the locality are added later.

        The threads wait for the copy of the image from a GPU.
        """
        result: Future[_Written] = Future()
        self._pending.append((entry, result))  # before `pool.submit`: an interrupt may end it after it has queued
        self.pool.submit(_fulfil, result, self._write, image, entry["file"])

    def wait(self, n_pending: int) -> None:
        """Wait until at most `n_pending` images are not written. Raise the exception of a thread that failed."""
        while len(self._pending) > n_pending:
            entry, result = self._pending[0]
            self._add(entry, result.result())
            self._pending.popleft()  # immediately, so that an interrupt does not add the entry twice
            self._on_written()

    def __enter__(self) -> ImageWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown()
        written = [(entry, result) for entry, result in self._pending if _succeeded(result)]
        for entry, result in written:
            self._add(entry, result.result())
        for _ in written:
            self._on_written()

    def _add(self, entry: dict[str, Any], written: _Written) -> None:
        self._journal.add(entry | written.results, written.modified)

    def _write(self, image: DownloadedImage, file: str) -> _Written:
        try:
            encoded = encode(image.pixels(), self._suffix)
        except ValueError as error:
            raise ValueError(f"{file} cannot be written: {error}") from error
        with atomic_write(self._directory / file) as temporary:
            temporary.write_bytes(encoded)
            modified = temporary.stat().st_mtime_ns
        results = {"bytes": len(encoded), "sha256": sha256(encoded).hexdigest(), **image.measured()}
        return _Written(results, modified)


def _succeeded(result: Future[Any]) -> bool:
    return result.done() and result.exception() is None


def _fulfil(result: Future[Any], function: Callable[..., Any], *arguments: Any) -> None:
    try:
        result.set_result(function(*arguments))
    except BaseException as error:
        result.set_exception(error)
