# SPDX-License-Identifier: Apache-2.0
"""Tests of the tables in the pages: their text, their place, and the check that they are up to date."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import documents
import pytest
from edit_tables import EditFigure
from timing import Figure

FIGURE = Figure("lloyd_step", "2x3x4x4", 8, 2, 1.0, 1.1, 1.2, 1.3, 40, 50, "read", 0.5, 2.0, 2.1, "torch", 4.0, 4.1)
MACHINE = {"processor": "Abacus", "cores": 4, "torch": "2.13.0", "instruction_set": "avx512", "date": "2026-02-01"}
BEGIN, END = documents.markers("measured")


def test_table_by_hand():
    figures = [
        FIGURE,
        replace(FIGURE, k=32, peer="NumPy"),
        replace(FIGURE, op="blend", k=None, peer=None, to_peer=None),
    ]
    records: list[dict[str, Any]] = [MACHINE | asdict(figure) for figure in figures]
    head = "| op | workload | fastest alternative | K = 8 | K = 16 | K = 32 | K = 64 | K = 128 |"
    others = ["| task | workload | fastest alternative | speed-up | time / bound |", "| --- " * 5 + "|"]
    caption = "torch 2.13.0, 2026-02-01.** Cells by K are: speed-up (time / bound)."
    other = records[0] | {"threads": 1, "instruction_set": "avx2", "to_floor": None, "date": "2026-01-01"}
    assert documents.table([other, *records]).splitlines() == [
        f"**Abacus, avx512, 4 cores, 2 threads, {caption}",
        "",
        head,
        "| --- " * 8 + "|",
        "| `lloyd_step` | 2x3x4x4 | torch; NumPy | 4.0x (2.00) |  | 4.0x (2.00) |  |  |",
        "",
        *others,
        "| `blend` | 2x3x4x4 |  |  | 2.00 |",
        "",
        f"**Abacus, avx2, 4 cores, 1 thread, {caption.replace('02-01', '01-01')}",
        "",
        head,
        "| --- " * 8 + "|",
        "| `lloyd_step` | 2x3x4x4 | torch | 4.0x |  |  |  |  |",
        "",
        *others,
    ]


def test_serial_floors_and_parts_have_their_own_columns():
    new = replace(FIGURE, to_serial_floor=1.5, to_part={"scores": 1.125})
    old = asdict(replace(FIGURE, k=16))
    for name in ("serial_floor", "to_serial_floor", "median_to_serial_floor", "to_part"):
        del old[name]
    text = documents.table([MACHINE | asdict(new), MACHINE | old])
    assert "Cells by K are: speed-up (time / bound, time / serial bound)." in text
    assert "| `lloyd_step` | 2x3x4x4 | torch | 4.0x (2.00, 1.50) | 4.0x (2.00) |" in text
    assert "| `lloyd_step` | 2x3x4x4 | time / scores | 1.12 |  |" in text


def test_headline_by_hand(monkeypatch: pytest.MonkeyPatch):
    fit = replace(FIGURE, op="fit", k=None, to_floor=None, to_peer=7.04)
    monkeypatch.setattr(documents, "HEADLINES", {("fit", "2x3x4x4", None): "a fit", ("lloyd_step", "2x3x4x4", 8): "a"})
    records = [MACHINE | asdict(figure) for figure in (FIGURE, replace(FIGURE, k=16), fit)]
    older = records[0] | {"date": "2026-01-01", "processor": "Quipu", "to_peer": 9.0}
    without_headline = MACHINE | asdict(replace(FIGURE, k=32)) | {"date": "2026-03-01", "instruction_set": "avx2"}
    lines = documents.headline([*records, older, without_headline]).splitlines()
    assert lines[0] == "Machine: Abacus, 2 threads, torch 2.13.0, avx512."
    assert lines[-2:] == ["| `fit` | a fit | torch | 7.0x |  |", "| `lloyd_step` | a | torch | 4.0x | 2.0 |"]


def edit(engine: str, batch_size: int, best: float, levels: int) -> dict[str, Any]:
    """Return the record of an edit that takes 2 s in the plain loop."""
    figure = EditFigure(
        "edits per second", f"{engine} {batch_size}", None, 2, best, 1.1, 1.2, 1.3, peer="plain loop", to_peer=2 / best,
        network="N", engine=engine, batch_size=batch_size, levels=levels,
        shares={"synthesis": 0.9, "output": best / 10},
    )  # fmt: skip
    return MACHINE | asdict(figure)


def test_edits_come_before_the_ops(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents, "HEADLINES", {})
    former = edit("fast", 1, 0.1, 0) | {"sources": "other", "date": "2026-01-01"}
    edits = [edit("eager", 1, 1.0, 0), edit("fast", 4, 0.5, 1), edit("fast", 2, 0.4, 0), former]
    records = [MACHINE | asdict(FIGURE), *edits]
    assert documents.table(records).splitlines()[2:8] == [
        "| network | engine | batches of 1 | batches of 2 | batches of 4 | difference | shares |",
        "| --- " * 7 + "|",
        "| N | eager | 1.00 (2.0x) |  |  | 0 | 90 / 10 % |",
        "| N | fast |  | 2.50 (5.0x) | 2.00 (4.0x) | 1 | 90 / 4 % |",
        "",
        "| op | workload | fastest alternative | K = 8 | K = 16 | K = 32 | K = 64 | K = 128 |",
    ]
    assert documents.headline(records).splitlines()[1:6] == [
        "",
        "| network | plain loop | eager | fast |",
        "| --- " * 4 + "|",
        "| N | 0.50 | 1.00 (2.0x) | 2.50 (5.0x) |",
        "",
    ]


def test_the_summary_has_edits_and_fits_of_one_machine(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    fit = replace(FIGURE, op=documents.FIT, workload="10 restarts", k=None, to_floor=None, to_peer=7.04)
    older = MACHINE | asdict(fit) | {"date": "2026-01-01", "processor": "Quipu"}
    records = [older, MACHINE | asdict(FIGURE), edit("eager", 1, 1.0, 0), MACHINE | asdict(fit)]
    monkeypatch.setattr(documents, "newest", lambda: records)
    assert run(monkeypatch, "--write", "--summary") == 0
    assert capsys.readouterr().out.splitlines() == [
        "| network | engine | batches of 1 | batches of 2 | batches of 4 | difference | shares |",
        "| --- " * 7 + "|",
        "| N | eager | 1.00 (2.0x) |  |  | 0 | 90 / 10 % |",
        "",
        "| fit | alternative | speed-up | date |",
        "| --- " * 4 + "|",
        "| 10 restarts | torch | 7.0x | 2026-02-01 |",
    ]


def test_every_row_of_the_headline_has_a_record():
    assert documents.blocks()["headline"].count("\n| `") == len(documents.HEADLINES) <= 8


def test_a_block_leaves_the_text_around_it():
    text = f"a\n{BEGIN}\nold\n{END}\nb\n"
    assert documents.with_block(text, "a.md", "measured", "new") == f"a\n{BEGIN}\nnew\n{END}\nb\n"


@pytest.mark.parametrize("text", ["", BEGIN, END + BEGIN, 2 * BEGIN + END])
def test_a_page_without_both_markers_is_refused(text: str):
    with pytest.raises(ValueError, match="a.md must hold"):
        documents.with_block(text, "a.md", "measured", "new")


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A page with two blocks whose records give the texts "x" and "y"."""
    texts = {"measured": "x", "gpu": "y"}
    monkeypatch.setattr(documents, "blocks", lambda: texts)
    monkeypatch.setattr(documents, "PAGES", dict.fromkeys(texts, "a.md"))
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    lines = ["\n".join([documents.markers(name)[0], text, documents.markers(name)[1]]) for name, text in texts.items()]
    (tmp_path / "a.md").write_text("\n".join(lines) + "\n")
    return tmp_path / "a.md"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """Return the exit status of the command, or the message that it exits with."""
    monkeypatch.setattr("sys.argv", ["documents.py", *arguments])
    with pytest.raises(SystemExit) as error:
        documents.main()
    return error.value.code


def test_check_names_the_stale_block_and_the_command(page: Path, monkeypatch: pytest.MonkeyPatch):
    assert run(monkeypatch, "--check") == 0
    page.write_text(page.read_text().replace("y\n", "z\n"))
    message = "a.md: block 'gpu' differs from the records; `python benchmarks/documents.py --write` updates it"
    assert run(monkeypatch, "--check") == message
    assert run(monkeypatch, "--write") == 0 and run(monkeypatch, "--check") == 0


def test_check_reports_missing_markers(page: Path, monkeypatch: pytest.MonkeyPatch):
    page.write_text("nothing\n")
    assert "a.md must hold" in str(run(monkeypatch, "--check"))
