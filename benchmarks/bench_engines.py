# SPDX-License-Identifier: Apache-2.0
"""Measure edits per second, images written, of all engines, against a plain loop over the network.

Usage::

    python benchmarks/bench_engines.py [--networks random-face] [--engines eager,native] [--batches 1,2] [--record]

The networks are random-face, which is downloaded once (for research only), and StyleGAN2 with the channels of
configuration F and random weights. All engines and batch sizes write the same edits as PNG. Their files are compared
with those of the engine "eager" before anything is timed. Engines that cannot run a network are named and left out.
Engines that compute image by image are timed with the first batch size only.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import edit_tables
import environment
import numpy as np
import random_stylegan2
import record
import torch
from bench_editing import build
from edit_tables import EditFigure
from PIL import Image
from plain_loop import PlainLoop
from timing import Candidate, WrongResult, comparison, race

from stylefast import StyleEditor, generators
from stylefast.editing import Grid, Job, JobOptions, SeedLatents, Simultaneous
from stylefast.generators import Generator

ENGINES: tuple[str, ...] = generators.ENGINE_NAMES
PLAIN = "plain loop"
MAX_LEVELS = 1  # largest difference of a pixel, in 8-bit levels
MAX_MEAN = 0.01  # largest mean difference: rounding moves few pixels


BATCH_SIZES = {"random-face": (1, 4), "stylegan2-256": (1, 2), "stylegan2-1024": (1,)}  # of each network
DEFAULTS = [name for name in ENGINES if name not in ("auto", "compile")]  # `auto` does not try `compile` on a CPU
IMAGE_BY_IMAGE = ("compile", "openvino")  # on CPUs


class EditLoop:
    """Job that makes all edits of a run again whenever it is called.

    `shares` are the shares of the stages in the fastest call.
    """

    def __init__(self, editor: StyleEditor, batch_size: int, n_targets: int, folder: Path) -> None:
        self.editor = editor
        self.n_targets = n_targets
        self.folder = folder
        self.options = JobOptions(batch_size=batch_size, resume=False)
        self.shares: dict[str, float] = {}
        self._best = float("inf")

    def __call__(self) -> Path:
        """Write the images of all edits and return their folder."""
        generator, spent = self.editor.generator, {"synthesis": 0.0, "render": 0.0}
        begin = time.perf_counter()
        job = Job(self.editor, edits(generator, self.n_targets), self.folder, self.options, progress=False)
        job.render = timed("render", job.render, spent)
        with patch.object(generator, "synthesize", timed("synthesis", generator.synthesize, spent)):
            deque(job, maxlen=0)
        total = time.perf_counter() - begin
        if total < self._best:
            self._best = total
            seconds = (spent["synthesis"], spent["render"] - spent["synthesis"], total - spent["render"])
            self.shares = dict(zip(("synthesis", "styles", "output"), (s / total for s in seconds), strict=True))
        return self.folder


def timed(name: str, function: Callable[..., Any], spent: dict[str, float]) -> Any:
    """Return the function, with the seconds of its calls added to `spent[name]`."""

    def call(*arguments: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            spent[name] += time.perf_counter() - begin

    return call


def edits(generator: Generator, n_targets: int) -> Grid:
    """Return the plan of a run: all targets with one reference and two parts. Every query moves channels."""
    targets, references = SeedLatents(generator, range(1004, 1004 + n_targets)), SeedLatents(generator, (1002,))
    return Grid(targets, references, ("cluster0", "cluster1"), Simultaneous())


def load(network: str, engine: str) -> Generator:
    """Load a network for an engine. Raises ValueError or ImportError if the engine cannot run it."""
    options = {} if engine == "eager" else {"engine": engine}
    return generators.load(network, **options)


def pixels(folder: Path) -> np.ndarray:
    """Return the pixels [N, H, W, C] of all images of a folder, as int16, in the order of their names."""
    return np.stack([np.asarray(Image.open(path), np.int16) for path in sorted(folder.glob("*.png"))])


class Verifier:
    """Comparison of the images in folders with those of one folder. `levels` has the largest difference by folder.

    Raises:
        WrongResult: If two of the expected images are equal.
    """

    def __init__(self, expected: Path) -> None:
        self.levels: dict[Path, int] = {}
        self._expected = pixels(expected)
        if len({image.tobytes() for image in self._expected}) < len(self._expected):
            raise WrongResult("two edits give the same image")

    def __call__(self, folder: Path) -> None:
        """Raise WrongResult if images are missing, or differ from the expected images by more than rounding."""
        images = pixels(folder)
        if images.shape != self._expected.shape:
            raise WrongResult(f"the images have the shape {images.shape}, not {self._expected.shape}")
        difference = np.abs(images - self._expected)
        largest, mean = int(difference.max()), difference.mean()
        if largest > MAX_LEVELS or mean > MAX_MEAN:
            raise WrongResult(f"pixels differ by up to {largest} levels, by {mean:.3g} on average")
        self.levels[folder] = largest


def measure(
    name: str, network: str, engines: Sequence[str], batch_sizes: Sequence[int], rounds: int, folder: Path
) -> list[EditFigure]:
    """Verify all engines and batch sizes of one network, time them in turn, and return their figures.

    A run makes as many edits as the largest batch has, but at least two.
    """
    eager, n_targets = load(network, "eager"), max(1, max(batch_sizes) // 2)
    catalog, _ = build(eager, 2, 4)
    verify = Verifier(EditLoop(StyleEditor(eager, catalog), 1, n_targets, folder / "expected")())
    loops: dict[tuple[str, int], EditLoop] = {}
    for engine in engines:
        try:
            editor = StyleEditor(load(network, engine), catalog)
        except (ImportError, ValueError) as reason:
            print(f"{name}: the engine {engine} is left out: {reason}", flush=True)
            continue
        for size in batch_sizes[:1] if engine in IMAGE_BY_IMAGE else batch_sizes:
            loops[engine, size] = EditLoop(editor, size, n_targets, folder / f"{engine}-{size}")
    plan = edits(eager, n_targets)
    plain = PlainLoop(eager, StyleEditor(eager, catalog), plan, folder / PLAIN)
    labels = {key: f"{name}, {key[0]}, batches of {key[1]}" for key in loops}
    candidates = {labels[key]: Candidate(loop, verify) for key, loop in loops.items()}
    times = race(candidates | {PLAIN: Candidate(plain, verify)}, {}, rounds)
    seconds = {label: [s / len(plan) for s in values] for label, values in times.seconds.items()}
    figures = []
    for (engine, size), loop in loops.items():
        label, threads = labels[engine, size], torch.get_num_threads()
        ratios = comparison(edit_tables.OP, label, None, threads, seconds[label], PLAIN, seconds[PLAIN])
        result = {"levels": verify.levels[loop.folder], "shares": loop.shares}
        figures.append(EditFigure(**asdict(ratios), network=name, engine=engine, batch_size=size, **result))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words = partial(str.split, sep=",")
    parser.add_argument("--networks", type=words, default=list(BATCH_SIZES), help="Names, separated by commas.")
    parser.add_argument(
        "--engines", type=words, default=DEFAULTS, help="Names, separated by commas. The default leaves out compile."
    )
    parser.add_argument("--batches", type=words, help="Batch sizes. The default depends on the network.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(2, len(environment.CPUS) or 1))
    parser.add_argument("--record", action="store_true", help="Append to benchmarks/results/<machine>.jsonl.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    all_figures = []
    for name in arguments.networks:
        sizes = [*map(int, arguments.batches or BATCH_SIZES[name])]
        with tempfile.TemporaryDirectory() as folder:
            network = name
            if name.startswith("stylegan2-"):
                network = str(Path(folder) / f"{name}.safetensors")
                random_stylegan2.write(Path(network), int(name.removeprefix("stylegan2-")))
            figures = measure(name, network, arguments.engines, sizes, arguments.rounds, Path(folder))
        for figure in figures:
            print(record.line(figure), flush=True)
            if arguments.record:
                record.append(figure)
        all_figures += figures
    print("\n".join(edit_tables.table(map(asdict, all_figures))))


if __name__ == "__main__":
    main()
