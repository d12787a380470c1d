# SPDX-License-Identifier: Apache-2.0
"""What all pages of the app share: the generator, the file of the catalog, and cached images."""

from __future__ import annotations

import hashlib
import math
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from .. import generators
from ..catalog import FFHQ_REGIONS, BuildOptions, Catalog, Clustering
from ..core.checks import check_latent_seeds
from ..core.images import to_rgb
from ..editing.manifest import latest_engine
from ..generators import Generator
from ..generators.random_face import NAME as RANDOM_FACE
from ..generators.random_face import cache_folder
from ..io.images import to_uint8
from .memo import Memo

DEFAULT_IMAGES, DEFAULT_MEASURED = 160, 24  # images of the catalog that is built if there is none
CACHE_BYTES = 1 << 28  # bound of the cached images, and of the cached styles
WAIT = 0.2  # seconds between two looks at the lock of heavy tasks


class ChangedFileError(ValueError):
    """The file of the catalog has changed since a page read it."""


class Workspace:
    """What all pages of the app share. Only its caches change.

    Args:
        generator: Generator of the images.
        catalog_path: File of the catalog.
        network: Generator as the option --network names it.
        truncation: Truncation psi of the latents of seeds.
        outdir: Folder in which batches make their folders.

    Raises:
        FileNotFoundError: If the catalog does not exist. The message names the command that builds it.
        ValueError: If the catalog cannot be used, or belongs to another generator.

    Attributes:
        catalog: The catalog as it was when the workspace was opened. Pages have copies of their own.
        opened_digest: Digest of the file of the catalog at that time.
        is_closing: Whether heavy tasks must end early, because the page ends.
    """

    def __init__(
        self,
        generator: Generator,
        catalog_path: Path,
        *,
        network: str,
        truncation: float = 0.7,
        outdir: Path = Path("stylefast-app"),
    ) -> None:
        self.generator: Generator = generator
        self.network: str = network
        self.truncation: float = truncation
        self.catalog_path: Path = Path(catalog_path)
        self.outdir: Path = Path(outdir)
        self.catalog: Catalog
        self.opened_digest: str
        self.catalog, self.opened_digest = self.read_catalog()
        self._busy, self._task, self._writing = threading.Lock(), "", threading.Lock()
        self.is_closing: threading.Event = threading.Event()
        n_images = max(8, CACHE_BYTES // (3 * math.prod(generator.image_size)))
        n_rows = max(64, CACHE_BYTES // (4 * (generator.style_width + math.prod(generator.w_shape))))
        self._w, self._styles = Memo(self._compute_w, n_rows), Memo(self._compute_styles, n_rows)
        self._image = Memo(self._compute_image, n_images)

    @classmethod
    def open(
        cls,
        network: str = RANDOM_FACE,
        catalog_path: Path | None = None,
        *,
        truncation: float = 0.7,
        device: str = "cpu",
        precision: Literal["float32", "float16"] = "float32",
        engine: str = "auto",
        outdir: Path = Path("stylefast-app"),
        progress: bool = True,
    ) -> Workspace:
        """Load the generator, and build a catalog with the options of the demo if there is none.

        Args:
            network: Generator, as `generators.load` accepts it.
            catalog_path: File of the catalog. The default is a file in the cache that belongs to the generator, and
                that is built if it does not exist.
            truncation: Truncation psi of the latents of seeds.
            device: Device of the generator.
            precision: Precision of the network, as `generators.load` accepts it.
            engine: Engine that makes the images, as in `Generator.use_engine`, or "auto", as in `choose_engine`.
            outdir: Folder in which batches make their folders.
            progress: Whether a build shows a progress bar.

        Raises:
            FileNotFoundError: If `catalog_path` is given and does not exist.
            ValueError: If the catalog cannot be used, or belongs to another generator.
        """
        if catalog_path is not None:
            check_catalog_path(Path(catalog_path), network)
        named = "eager" if engine == "auto" else engine
        generator = generators.load(network, device=device, precision=precision, engine=named)
        if engine == "auto":
            choose_engine(generator, Path(outdir))
        if catalog_path is None:
            catalog_path = cache_folder() / f"catalog-{generator.fingerprint['weights'][:16]}.safetensors"
            if not catalog_path.exists():
                build_default(generator, truncation, progress=progress).save(catalog_path)
        return cls(generator, Path(catalog_path), network=network, truncation=truncation, outdir=outdir)

    def read_catalog(self) -> tuple[Catalog, str]:
        """Return the catalog that the file holds now, and the digest of the file."""
        check_catalog_path(self.catalog_path, self.network)
        while True:  # another process may replace the file meanwhile
            digest = self.digest()
            catalog = Catalog.load(self.catalog_path, self.generator)
            if digest == self.digest():
                return catalog, digest

    def digest(self) -> str:
        """Return the sha256 of the file of the catalog, or "" if there is no file."""
        try:
            return hashlib.sha256(self.catalog_path.read_bytes()).hexdigest()
        except FileNotFoundError:
            return ""

    def save_catalog(self, catalog: Catalog, expected: str | None) -> str:
        """Write the file of the catalog, atomically, and return its digest.

        Args:
            catalog: Catalog to write.
            expected: Digest of the file that is replaced. None replaces any file.

        Raises:
            ChangedFileError: If the file has another digest.
        """
        with self._writing:
            if expected is not None and self.digest() != expected:
                raise ChangedFileError(
                    f"{self.catalog_path} was not saved, because another page or program has changed it since this "
                    "page read it"
                )
            catalog.save(self.catalog_path)
            return self.digest()

    def w(self, seed: int | None) -> Tensor:
        """Return the latent of a seed, or of the mean image if there is none: [1, D] or [1, rows, D], not to change."""
        return self._w(check_seed(seed))

    def styles(self, seed: int | None) -> Tensor:
        """Return the styles of a seed, or of the mean image if there is none: [1, S], not to change."""
        return self._styles(check_seed(seed))

    def image(self, seed: int | None) -> np.ndarray:
        """Return the image of a seed, or the mean image if there is none: [H, W, 3] uint8, read-only."""
        return self._image(check_seed(seed))

    def _compute_w(self, seed: int | None) -> Tensor:
        if seed is None:
            return self.generator.w_mean.expand(1, *self.generator.w_shape)
        return self.generator.latents([seed], truncation=self.truncation)

    def _compute_styles(self, seed: int | None) -> Tensor:
        return self.generator.styles(self._w(seed))

    def _compute_image(self, seed: int | None) -> np.ndarray:
        image = self.generator.synthesize(self._styles(seed), self._w(seed))
        pixels = to_uint8(to_rgb(image))[0]
        pixels.flags.writeable = False
        return pixels

    @contextmanager
    def heavy_task(self, name: str, on_wait: Callable[[str], object] | None = None) -> Iterator[None]:
        """Run one heavy task at a time: builds and batches.

        Args:
            name: Name of the task in the messages of tasks that wait for it, such as "the build of a catalog".
            on_wait: Called with a sentence for as long as another task runs. It may raise to give up.
        """
        while not self._busy.acquire(timeout=WAIT):
            if on_wait is not None:
                on_wait(f"Waiting for {self._task}.")
        self._task = name
        try:
            yield
        finally:
            self._busy.release()

    def close(self) -> None:
        """Ask the heavy task that runs to end early, wait for its end, and let no other one begin."""
        self.is_closing.set()
        self._busy.acquire()


def choose_engine(generator: Generator, outdir: Path) -> None:
    """Use the engine of the batch that was written last, so that it can be resumed, or else the fastest engine.

    Args:
        generator: The generator.
        outdir: Folder in which batches have their folders.
    """
    latest = latest_engine(path for path in outdir.glob("*") if path.is_dir())
    try:
        generator.use_engine(latest or "auto")
    except ValueError:  # the batch may belong to another network or machine
        generator.use_engine("auto")


def check_seed(seed: int | None) -> int | None:
    """Return a seed as an int, or None. Raise ValueError unless it is an integer in [0, 2**32)."""
    return None if seed is None else int(check_latent_seeds([seed])[0])


def check_catalog_path(path: Path, network: str) -> None:
    """Raise FileNotFoundError with the command that builds a catalog if the file does not exist."""
    if not path.is_file():
        option = [] if network == RANDOM_FACE else ["--network", network]
        command = shlex.join(["stylefast", "catalog", "build", *option, "--out", str(path)])
        raise FileNotFoundError(f"{path} does not exist: build it with `{command}`")


def build_default(generator: Generator, truncation: float, *, progress: bool) -> Catalog:
    """Build a catalog with the options of the demo. The clusters of random-face get the names of the parts of a face.

    Args:
        generator: Generator of the catalog.
        truncation: Truncation psi of the latents.
        progress: Whether to show a progress bar.
    """
    sizes = {site.size[0] for site in generator.sites if site.kind == "conv"}
    nearest = min(sizes, key=lambda size: abs(math.log2(size / Clustering().resolution)))
    w = generator.latents(range(DEFAULT_IMAGES), truncation=truncation)
    clustering, options = Clustering(resolution=nearest), BuildOptions(batch_size=2)
    regions = FFHQ_REGIONS if generator.name == RANDOM_FACE else None
    measured = DEFAULT_MEASURED
    catalog = Catalog.build(
        generator, w, clustering, options, regions=regions, contribution_images=measured, progress=progress
    )
    catalog.provenance |= {"seeds": f"0-{DEFAULT_IMAGES - 1}", "truncation": truncation}
    return catalog
