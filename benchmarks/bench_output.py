# SPDX-License-Identifier: Apache-2.0
"""Measure the output of images: a whole job against bare synthesis, and a written image against Pillow.

Usage::

    python benchmarks/bench_output.py [--network random-face] [--engine native] [--free 1] [--record]

The threads that write have `--free` cores for themselves, and synthesis has the other ones, in the job as well as in
the bare synthesis. Both run alternately, and the files of the job must hold exactly the images of the bare synthesis.
One thread converts, encodes, hashes and writes an image; Pillow converts, encodes and writes it. Memory is allocated on
huge pages, as the command line does.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from itertools import starmap
from pathlib import Path

import environment
import numpy as np
import record
import torch
from bench_editing import build
from bench_engines import EditLoop, edits, pixels
from PIL import Image
from timing import Candidate, Figure, WrongResult, comparison, race
from torch import Tensor

from stylefast import StyleEditor, generators
from stylefast.generators import Generator
from stylefast.io.atomic import atomic_write
from stylefast.io.images import encode, to_uint8

JOB, BARE, OURS, PILLOW = "job", "the generator alone", "ours", "Pillow"


def batches(editor: StyleEditor, n_targets: int) -> list[tuple[Tensor, Tensor]]:
    """Return the styles [1, S] and the latents of every edit of `EditLoop`, in the order of the names of its files."""
    plan = edits(editor.generator, n_targets)
    render = editor.renderer(plan, batch_size=1)
    in_order = sorted(plan, key=lambda edit: f"{plan.name(edit)}.png")
    return [(render([edit]).styles, plan.targets.w(edit.target)) for edit in in_order]


def pipeline(generator: Generator, n_targets: int, rounds: int, threads: int, folder: Path) -> Figure:
    """Time a job in batches of one edit, with the bare synthesis of its images as the peer, and return the figure.

    Raises:
        WrongResult: If a file of the job differs from the image of the bare synthesis. Nothing is timed then.
    """
    catalog, _ = build(generator, 2, 4)
    editor = StyleEditor(generator, catalog)
    inputs = batches(editor, n_targets)
    expected = np.concatenate([to_uint8(image) for image in starmap(generator.synthesize, inputs)])

    def verify(written: Path) -> None:
        if not np.array_equal(pixels(written), expected):
            raise WrongResult("the files do not hold the images of the bare synthesis")

    def bare() -> None:
        for styles, w in inputs:
            generator.synthesize(styles, w)

    loop = EditLoop(editor, 1, n_targets, folder / JOB)
    times = race({JOB: Candidate(loop, verify), BARE: Candidate(bare, lambda _: None)}, {}, rounds)
    print("shares of the job: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in loop.shares.items()))
    used = torch.get_num_threads()
    work = f"{generator.name}, {generator.engine.name}, {len(inputs)} edits, {used} of {threads} threads synthesise"
    return comparison("stylefast edit", work, None, threads, times.seconds[JOB], BARE, times.seconds[BARE])


def writing(name: str, image: Tensor, rounds: int, threads: int, folder: Path) -> Figure:
    """Time one thread that writes an image [1, C, H, W] as PNG, with Pillow as the peer, and return the figure.

    Raises:
        WrongResult: If the pixels of a file are wrong. Nothing is timed then.
    """
    expected = to_uint8(image)[0]
    paths = {OURS: folder / "ours.png", PILLOW: folder / "pillow.png"}

    def verify(path: Path, _: object) -> None:
        if not np.array_equal(np.asarray(Image.open(path)), expected):
            raise WrongResult("the file does not hold the image")

    calls: dict[str, Callable[[Tensor, Path], object]] = {OURS: write, PILLOW: write_with_pillow}
    candidates = {
        key: Candidate(partial(calls[key], image, path), partial(verify, path)) for key, path in paths.items()
    }
    times = race(candidates, {}, rounds)
    h, w = image.shape[2:]
    work = f"{name}, {w} x {h}, .png, one thread"
    return comparison("written image", work, None, threads, times.seconds[OURS], PILLOW, times.seconds[PILLOW])


def write(image: Tensor, path: Path) -> str:
    """Write an image [1, C, H, W] as a job does; return the checksum of the file."""
    encoded = encode(to_uint8(image)[0], path.suffix)
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded)
    return sha256(encoded).hexdigest()


def write_with_pillow(image: Tensor, path: Path) -> None:
    rows = image[0].permute(1, 2, 0).mul(255).round_().clamp_(0, 255).to(torch.uint8)
    Image.fromarray(rows.numpy()).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="random-face")
    parser.add_argument("--engine", default="native", help="Engine of the synthesis; the fastest is the hardest peer.")
    parser.add_argument("--targets", type=int, default=4, help="Half the number of edits of a run.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=min(2, len(environment.CPUS) or 1))
    parser.add_argument("--free", type=int, default=1, help="Threads that synthesis leaves free.")
    parser.add_argument("--record", action="store_true", help="Append to benchmarks/results/<machine>.jsonl.")
    arguments = parser.parse_args()
    if not 0 <= arguments.free < arguments.threads:
        parser.error(f"--free must be at least 0 and less than {arguments.threads} threads, got {arguments.free}")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    torch.set_num_threads(arguments.threads - arguments.free)
    generator = generators.load(arguments.network, engine=arguments.engine)
    w = generator.latents([1004])
    image = generator.synthesize(generator.styles(w), w)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = writing(generator.name, image, arguments.rounds, arguments.threads, folder)
        whole = pipeline(generator, arguments.targets, arguments.rounds, arguments.threads, folder)
    print(record.line(written), f"{1e3 * written.best:.0f} ms ({1e3 * written.p50:.0f} ms)")
    print(record.line(whole), f"job / synthesis {1 / (whole.to_peer or 1):.3f} ({1 / (whole.median_to_peer or 1):.3f})")
    if arguments.record:
        record.append(written)
        record.append(whole)


if __name__ == "__main__":
    main()
