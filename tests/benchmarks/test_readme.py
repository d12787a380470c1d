# SPDX-License-Identifier: Apache-2.0
"""The blocks of README.md that are made from records: their text, where it goes, and when it is stale."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import readme
from timing import Figure

FIGURE = Figure("lloyd_step", "2x3x4x4", 8, 2, 1.0, 1.1, 1.2, 1.3, 40, 50, "read", 0.5, 2.0, 2.1, "torch", 4.0, 4.1)
MACHINE = {"processor": "Abacus", "cores": 4, "torch": "2.13.0", "instruction_set": "avx512"}
BEGIN, END = readme.markers("measured")


def test_table_by_hand():
    figures = [
        FIGURE,
        replace(FIGURE, k=32, peer="NumPy"),
        replace(FIGURE, op="blend", k=None, peer=None, to_peer=None),
    ]
    records: list[dict[str, Any]] = [MACHINE | asdict(figure) for figure in figures]
    caption = "torch 2.13.0, avx512. Cells: times the best peer (times the floor).\n"
    assert readme.table([*records, records[0] | {"threads": 1}]).splitlines() == [
        *f"Abacus, 4 cores, 2 threads, {caption}".split("\n"),
        "| op | on | best peer | K = 8 | 16 | 32 | 64 | 128 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| `lloyd_step` | 2x3x4x4 | torch; NumPy | 4.0x (2.00) |  | 4.0x (2.00) |  |  |",
        "| `blend` | 2x3x4x4 |  | (2.00) |  |  |  |  |",
        "",
        *f"Abacus, 4 cores, 1 threads, {caption}".split("\n"),
        "| op | on | best peer | K = 8 | 16 | 32 | 64 | 128 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| `lloyd_step` | 2x3x4x4 | torch | 4.0x (2.00) |  |  |  |  |",
    ]


def test_a_figure_without_a_floor_shows_its_peer_alone():
    fit = Figure("SphericalKMeans.fit", "all", None, 2, 1.0, 1.1, 1.2, 1.3, peer="a", to_peer=7.0, median_to_peer=6.5)
    last = readme.table([MACHINE | asdict(fit)]).splitlines()[-1]
    assert last == "| `SphericalKMeans.fit` | all | a | 7.0x |  |  |  |  |"


def test_a_block_leaves_the_text_around_it():
    assert readme.with_block(f"a\n{BEGIN}\nold\n{END}\nb\n", "measured", "new") == f"a\n{BEGIN}\nnew\n{END}\nb\n"


@pytest.mark.parametrize("text", ["", BEGIN, END + BEGIN, 2 * BEGIN + END])
def test_a_text_without_both_markers_is_refused(text: str):
    with pytest.raises(ValueError, match="README.md must hold"):
        readme.with_block(text, "measured", "new")


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A README.md with two blocks, of which the records give the texts "x" and "y"."""
    texts = {"measured": "x", "gpu": "y"}
    monkeypatch.setattr(readme, "blocks", lambda: texts)
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    lines = ["\n".join([readme.markers(name)[0], text, readme.markers(name)[1]]) for name, text in texts.items()]
    (tmp_path / "README.md").write_text("\n".join(lines) + "\n")
    return tmp_path / "README.md"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """The exit status of the command, or what it exits with."""
    monkeypatch.setattr("sys.argv", ["readme.py", *arguments])
    try:
        readme.main()
    except SystemExit as error:
        return error.code
    return None


def test_check_names_the_stale_block_and_the_command(path: Path, monkeypatch: pytest.MonkeyPatch):
    assert run(monkeypatch, "--check") == 0
    path.write_text(path.read_text().replace("y\n", "z\n"))
    message = "README.md: block 'gpu' differs from the records; `python benchmarks/readme.py --write` updates it"
    assert run(monkeypatch, "--check") == message
    assert run(monkeypatch, "--write") is None and run(monkeypatch, "--check") == 0


def test_check_reports_missing_markers(path: Path, monkeypatch: pytest.MonkeyPatch):
    path.write_text("nothing\n")
    assert "README.md must hold" in str(run(monkeypatch, "--check"))
