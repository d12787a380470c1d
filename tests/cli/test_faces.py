# SPDX-License-Identifier: Apache-2.0
"""`stylefast faces` and `stylefast samples`: the images of the seeds, several sheets, and refused options."""

import numpy as np
import pytest
from commands import run
from fake_engines import use_fakes
from networks import shared
from PIL import Image

from stylefast import figures
from stylefast.cli import faces as module


def expected(seeds, truncation=0.7, cell=32):
    generator = shared("sg2")
    w = generator.latents(seeds, truncation=truncation)
    images = generator.synthesize(generator.styles(w), w)
    return np.asarray(figures.image_sheet(images, [f"seed {seed}" for seed in seeds], cell=cell))


@pytest.mark.parametrize("command", ["faces", "samples"])
def test_a_sheet_shows_the_images_of_the_seeds(tmp_path, command):
    path = tmp_path / "new" / "sheet.png"
    options = ("--network", "toy:sg2", "--seeds", "3,7-9", "--trunc", "0.5", "--batch-size", "3", "--cell", "32")
    text = run(command, *options, "--out", path)
    assert text == f"4 images are in {path}\n"
    difference = np.asarray(Image.open(path)).astype(int) - expected([3, 7, 8, 9], truncation=0.5)
    assert np.abs(difference).max() <= 1  # batches of other sizes can differ by rounding


def test_many_images_are_on_numbered_sheets(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PER_SHEET", 2)
    text = run("faces", "--network", "toy:sg2", "--seeds", "0-4", "--cell", "32", "--out", tmp_path / "a.png")
    assert text.startswith("5 images are in") and text.endswith("a-3.png\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1.png", "a-2.png", "a-3.png"]
    for name, seeds in (("a-1", [0, 1]), ("a-2", [2, 3]), ("a-3", [4])):
        difference = np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) - expected(seeds)
        assert np.abs(difference).max() <= 1


def test_numbers_of_sheets_have_the_same_digits(tmp_path):
    names = [module._numbered(tmp_path / "x.y.jpg", n, 10).name for n in (1, 10)]
    assert names == ["x.y-01.jpg", "x.y-10.jpg"]


def test_the_engine_is_used(tmp_path, monkeypatch):
    use_fakes(monkeypatch, native=0.1 / 255)
    options = ("--network", "toy:sg2", "--seeds", "0", "--cell", "32", "--engine", "native")
    run("faces", *options, "--out", tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()
    use_fakes(monkeypatch, native=0.5)
    with pytest.raises(AssertionError, match="--engine must make the images of toy:sg2, got native"):
        run("faces", *options, "--out", tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_wrong_options_are_refused_before_the_network_is_loaded(tmp_path):
    nowhere = ("--network", "no/such.safetensors")
    with pytest.raises(AssertionError, match=r"--seeds must be those of at most 10,000 images, got 10,001"):
        run("faces", *nowhere, "--seeds", "0-10000", "--out", tmp_path / "a.jpg")
    with pytest.raises(AssertionError, match=r"--out must be the path of a \.jpg or .* file, got .*a\.gif"):
        run("faces", *nowhere, "--out", tmp_path / "a.gif")
