# SPDX-License-Identifier: Apache-2.0
"""Tests of the benchmark of the output, on a tiny StyleGAN2: its checks and its figures."""

from __future__ import annotations

from pathlib import Path

import bench_output
import pytest
import random_stylegan2
import torch
from timing import WrongResult

from stylefast import generators
from stylefast.generators import Generator


@pytest.fixture
def generator(tmp_path: Path) -> Generator:
    random_stylegan2.write(tmp_path / "tiny.safetensors", 16, channel_base=128, max_channels=16)
    return generators.load(str(tmp_path / "tiny.safetensors"))


def test_a_job_is_compared_with_the_bare_synthesis(generator: Generator, tmp_path: Path):
    figure = bench_output.pipeline(generator, 2, 1, 7, tmp_path)
    assert (figure.op, figure.peer, figure.threads) == ("stylefast edit", "the generator alone", 7)
    assert figure.workload == f"{generator.name}, eager, 4 edits, {torch.get_num_threads()} of 7 threads synthesise"
    assert len(list((tmp_path / "job").glob("*.png"))) == 4


def test_a_file_of_another_image_refuses_the_figure(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    inputs = bench_output.batches
    monkeypatch.setattr(bench_output, "batches", lambda *arguments: inputs(*arguments)[::-1])
    with pytest.raises(WrongResult, match="job: the files do not hold the images of the bare synthesis; nothing"):
        bench_output.pipeline(generator, 2, 1, 2, tmp_path)


def test_a_written_image_is_compared_with_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image = torch.rand(1, 3, 5, 7)
    figure = bench_output.writing("name", image, 1, 2, tmp_path)
    assert (figure.workload, figure.peer) == ("name, 7 x 5, .png, one thread", "Pillow")
    monkeypatch.setattr(bench_output, "write_with_pillow", lambda image, path: bench_output.write(1 - image, path))
    with pytest.raises(WrongResult, match="Pillow: the file does not hold the image"):
        bench_output.writing("name", image, 1, 2, tmp_path)
