# SPDX-License-Identifier: Apache-2.0
"""A job on a GPU writes the bytes of the CPU and starts the next batch before it needs the images of the last one."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from editors import catalog_of
from host_waits import SimulatedGpu, move, simulated_gpu
from jobs import files, grid, job, manifest, run

from stylefast.editing import EditRenderer, Job, StyleEditor
from stylefast.editing.download import Download
from stylefast.generators import Generator
from stylefast.generators.toy import toy
from stylefast.io.images import to_uint8, to_uint8_tensor

N, SIZE = 12, 4


def gpu_job(directory: Path, gpu: SimulatedGpu, generator: Generator, **options: Any) -> Job:
    moved = move(generator, gpu)
    editor = StyleEditor(moved, catalog_of("sg2"), backend=gpu.backend)
    return job(directory, grid(generator=moved), editor=editor, batch_size=SIZE, **options)


@pytest.mark.parametrize("measure", [False, True])
def test_a_gpu_gives_the_files_of_a_cpu(tmp_path: Path, measure: bool):
    run(tmp_path / "cpu", batch_size=SIZE, measure=measure)
    with simulated_gpu() as gpu:
        for _ in gpu_job(tmp_path / "gpu", gpu, toy("sg2"), measure=measure):
            pass
    expected, got = files(tmp_path / "cpu"), files(tmp_path / "gpu")
    assert {name: got[name] for name in expected if name.endswith(".png")} == {
        name: expected[name] for name in expected if name.endswith(".png")
    }
    for line, other in zip(manifest(tmp_path / "gpu"), manifest(tmp_path / "cpu"), strict=True):
        assert line["locality"] == (pytest.approx(other["locality"], rel=1e-4) if measure else None)


def test_the_next_batch_starts_before_the_last_one_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No thread finishes waiting for batch k before batch k + 1 has been started."""
    n_started, gate, render, pixels = 0, threading.Condition(), EditRenderer.__call__, Download.pixels
    numbers: dict[int, int] = {}

    def started(self: EditRenderer, edits: Any) -> Any:
        nonlocal n_started
        batch = render(self, edits)
        with gate:
            n_started += 1
            numbers[id(batch.edits)] = n_started
            gate.notify_all()
        return batch

    def waited(self: Download, i: int) -> Any:
        with gate:
            order = numbers[self.order]  # type: ignore[attr-defined]
            assert gate.wait_for(lambda: n_started > order or n_started == N // SIZE, timeout=10)
        return pixels(self, i)

    make = Download.__init__

    def initialize(self: Download, batch: Any) -> None:
        make(self, batch)
        self.order = id(batch.edits)  # type: ignore[attr-defined]

    monkeypatch.setattr(EditRenderer, "__call__", started)
    monkeypatch.setattr(Download, "__init__", initialize)
    monkeypatch.setattr(Download, "pixels", waited)
    with simulated_gpu() as gpu:
        batches = list(gpu_job(tmp_path, gpu, toy("sg2"), writers=1))
    assert len(batches) == N // SIZE and len(list(tmp_path.glob("*.png"))) == N


def test_a_download_waits_for_its_event_only():
    with simulated_gpu() as gpu:
        generator = move(toy("sg2"), gpu)
        editor = StyleEditor(generator, catalog_of("sg2"), backend=gpu.backend)
        plan = grid(generator=generator)
        batch = editor.renderer(plan, batch_size=SIZE, measure=True)(list(plan)[:SIZE])
        gpu.waits.clear()
        download = Download(batch)
        assert gpu.waits == [] and download.is_asynchronous
        pixels, measured = download.pixels(1), Download(batch).locality(1)
        assert set(gpu.waits) == {"event"}
        assert (pixels == to_uint8(batch.images[1:2].cpu())[0]).all()
        assert measured is not None and measured["in_mse"] == float(batch.locality.in_mse[1])  # type: ignore[union-attr]


def test_images_with_nan_from_a_gpu_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synthesize = Generator.synthesize

    def damaged(self: Generator, styles: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return synthesize(self, styles, w) * math.nan

    monkeypatch.setattr(Generator, "synthesize", damaged)
    with simulated_gpu() as gpu, pytest.raises(ValueError, match=r"\.png cannot be written: images must not hold NaN"):
        list(gpu_job(tmp_path, gpu, toy("sg2")))
    assert files(tmp_path) == {}


def test_bytes_are_the_same_on_both_paths():
    torch.manual_seed(0)
    halves = torch.arange(0, 512, dtype=torch.float64, device="cpu").add(0.5).div(255).float().view(1, 1, 16, 32)
    for images in (
        torch.rand(2, 3, 33, 17) * 1.4 - 0.2,
        torch.rand(1, 4, 5, 7).half(),
        halves,
        halves.nextafter(halves + 1),
    ):
        assert (to_uint8_tensor(images).numpy() == to_uint8(images)).all()
