# SPDX-License-Identifier: Apache-2.0
"""The programs in examples run, with toy networks in place of real ones."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image
from snippets import ROOT, use_toys

EXAMPLES = ROOT / "examples"
pytestmark = pytest.mark.filterwarnings("ignore::stylefast.kmeans.EmptyClusterWarning")


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, object]:
    """Run an example in this process; return its names."""
    monkeypatch.setattr("sys.argv", [name, *arguments])
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_edit_faces_writes_one_image_per_edit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    use_toys(monkeypatch)
    run("edit_faces.py", monkeypatch, "--images", "8", "--outdir", "edits")
    images = sorted(path.name for path in Path("edits").glob("*.png"))
    assert len(images) == 8 and images[0] == "seed1004-eyes-seed1002.png"
    assert capsys.readouterr().out.count("changed") == 8


def test_own_generator_prints_sites_and_writes_a_grid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run("own_generator.py", monkeypatch, "--outdir", "own")
    assert "blocks.2: 64 channels of 32 x 32, columns 128 to 191" in capsys.readouterr().out
    assert Image.open("own/grid.png").size[0] > 4 * 160


def test_kernels_in_a_loop_recovers_the_directions(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    run("kernels_in_a_loop.py", monkeypatch, "--steps", "10")
    lines = dict(line.split(": ") for line in capsys.readouterr().out.splitlines() if ": " in line)
    assert float(lines["lowest cosine between a centroid and its direction"]) > 0.99


def test_large_job_makes_only_missing_images(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    options = ["--targets", "3", "--references", "2", "--outdir", "job"]
    run("large_job.py", monkeypatch, *options)
    assert "this process kept 0 images and wrote 24" in capsys.readouterr().out
    images = sorted(Path("job/images").glob("*.jpg"))
    images[0].unlink()
    run("large_job.py", monkeypatch, *options)
    assert "this process kept 23 images and wrote 1" in capsys.readouterr().out and images[0].exists()


def test_every_notebook_cell_after_the_first_shows_a_picture(monkeypatch: pytest.MonkeyPatch):
    use_toys(monkeypatch)
    text = (EXAMPLES / "notebook.py").read_text()
    cells = text.split("\n# %%\n")[1:]
    names: dict[str, object] = {}
    for cell in cells:
        code = cell.split("\n# %% [markdown]")[0].rstrip()
        *statements, last = code.split("\n")
        exec("\n".join(statements), names)
        if cell is cells[0]:
            exec(last, names)
        else:
            assert isinstance(eval(last, names), Image.Image)
    assert len(cells) == 5


def test_every_example_has_a_test():
    tested = Path(__file__).read_text()
    assert all(f'"{path.name}"' in tested for path in EXAMPLES.glob("*.py"))
