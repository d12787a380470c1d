# SPDX-License-Identifier: Apache-2.0
"""Tests of the benchmark of edits per second, on a tiny StyleGAN2: its peer, its checks and its figures."""

from __future__ import annotations

from pathlib import Path

import bench_engines
import numpy as np
import pytest
import random_stylegan2
from PIL import Image
from timing import WrongResult

from stylefast.generators import Generator


@pytest.fixture
def network(tmp_path: Path) -> str:
    """A tiny StyleGAN2 in a file."""
    random_stylegan2.write(tmp_path / "tiny.safetensors", 16, channel_base=128, max_channels=16)
    return str(tmp_path / "tiny.safetensors")


def brighter(generator: Generator) -> Generator:
    """Replace the method `synthesize` of a generator by one whose images are too bright by two levels."""
    synthesize = generator.synthesize
    generator.synthesize = lambda styles, w: synthesize(styles, w) + 2 / 255
    return generator


def test_all_figures_are_verified_and_complete(network: str, tmp_path: Path):
    figures = bench_engines.measure("tiny", network, ["eager"], [1, 4], 1, tmp_path)
    assert [(figure.engine, figure.batch_size, figure.peer) for figure in figures] == [
        ("eager", 1, "plain loop"),
        ("eager", 4, "plain loop"),
    ]
    assert len(list((tmp_path / "plain loop").glob("*.png"))) == 4
    for figure in figures:
        assert figure.levels <= 1 and sum(figure.shares.values()) == pytest.approx(1)
        assert min(figure.shares.values()) > 0 and list(figure.shares) == ["synthesis", "styles", "output"]


def test_image_by_image_engines_have_one_batch_size(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_engines, "IMAGE_BY_IMAGE", ("eager",))
    figures = bench_engines.measure("tiny", network, ["eager"], [2, 4], 1, tmp_path)
    assert [figure.batch_size for figure in figures] == [2]


def test_a_wrong_image_refuses_all_figures(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    load = bench_engines.load

    def wrong(path: str, engine: str) -> Generator:
        return load(path, "eager") if engine == "eager" else brighter(load(path, "eager"))

    monkeypatch.setattr(bench_engines, "load", wrong)
    with pytest.raises(WrongResult, match="tiny, fast, batches of 1: pixels differ by up to 2 levels.*nothing"):
        bench_engines.measure("tiny", network, ["eager", "fast"], [1], 1, tmp_path)


def test_equal_and_missing_images_are_refused(tmp_path: Path):
    for folder, values in {"good": (1, 9), "few": (1,), "equal": (1, 1)}.items():
        (tmp_path / folder).mkdir()
        for i, value in enumerate(values):
            Image.fromarray(np.full((2, 2, 3), value, np.uint8)).save(tmp_path / folder / f"{i}.png")
    with pytest.raises(WrongResult, match="shape"):
        bench_engines.Verifier(tmp_path / "good")(tmp_path / "few")
    with pytest.raises(WrongResult, match="two edits give the same image"):
        bench_engines.Verifier(tmp_path / "equal")


def test_an_engine_that_cannot_run_is_named(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    load = bench_engines.load

    def fails(path: str, engine: str) -> Generator:
        if engine == "openvino":
            raise ImportError("openvino is not installed")
        return load(path, engine)

    monkeypatch.setattr(bench_engines, "load", fails)
    figures = bench_engines.measure("tiny", network, ["openvino", "eager"], [1], 1, tmp_path)
    assert [figure.engine for figure in figures] == ["eager"]
    assert "tiny: the engine openvino is left out: openvino is not installed" in capsys.readouterr().out
