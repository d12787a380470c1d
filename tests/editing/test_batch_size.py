# SPDX-License-Identifier: Apache-2.0
"""The automatic batch size: how it is measured, and that all processes of a job and its resumption agree on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from editors import editor_of, latents
from forked import in_ranks
from jobs import files, grid, job, manifest, run
from networks import shared

from stylefast.editing import Job, batch_size
from stylefast.editing import job as job_module
from stylefast.editing.batch_size import candidates, fastest


def plan(n: int) -> Any:
    """A plan of n edits of which the measurement only reads the first target."""
    targets = SimpleNamespace(styles=lambda row: torch.zeros(1, 3), w=lambda row: torch.zeros(1, 2))
    return type("", (), {"__len__": lambda self: n, "targets": targets})()


def machine(seconds: Callable[[int], float], monkeypatch: pytest.MonkeyPatch, device: str = "cpu") -> Any:
    """A generator that takes the given seconds for a batch, by a clock that only it advances."""
    clock, sizes = [0.0], list[int]()

    def synthesize(styles: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        assert len(styles) == len(w)
        clock[0] += seconds(len(styles))
        sizes.append(len(styles))
        return torch.zeros(len(styles), 3, 1, 1)

    monkeypatch.setattr(batch_size, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    return SimpleNamespace(synthesize=synthesize, sizes=sizes, device=torch.device(device))


def test_the_measurement_takes_a_twentieth_of_the_images():
    for n in (0, 1, 100, 119, 120, 1000, 10_000, 1_000_000):
        for smallest in (1, 4):
            sizes = candidates(smallest, n)
            assert sizes[0] == smallest and all(b == 2 * a for a, b in zip(sizes, sizes[1:], strict=False))
            assert len(sizes) == 1 or 2 * sum(sizes) <= n / 20
    assert candidates(1, 119) == [1] and candidates(1, 120) == [1, 2]
    assert candidates(4, 1_000_000) == [4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    "seconds, device, expected, measured",
    [
        (lambda n: 0.2 * n + 0.02 * (n > 1) * n, "cpu", 1, [1, 2]),  # larger batches are slower
        (lambda n: 1e-3 + 1e-4 * n, "cpu", 64, [1, 2, 4, 8, 16, 32, 64]),  # launches dominate
        (lambda n: 1e-3 * max(n, 16), "cuda", 16, [4, 8, 16, 32]),  # a GPU is full with 16
        (lambda n: 1.0 + 0.1 * n, "cpu", 4, [1, 2, 4]),  # five seconds are spent
    ],
)
def test_the_fastest_size_is_taken(
    seconds: Any, device: str, expected: int, measured: list[int], monkeypatch: pytest.MonkeyPatch
):
    generator = machine(seconds, monkeypatch, device)
    assert fastest(generator, plan(1_000_000)) == expected
    assert generator.sizes == [size for size in measured for _ in range(2)]


def test_a_short_plan_is_not_measured(monkeypatch: pytest.MonkeyPatch):
    for device, expected in (("cpu", 1), ("cuda", 4)):
        generator = machine(lambda n: 1e-3, monkeypatch, device)
        assert fastest(generator, plan(100)) == expected and generator.sizes == []


def test_sizes_that_do_not_fit_into_memory_are_not_taken(monkeypatch: pytest.MonkeyPatch):
    def seconds(n: int) -> float:
        if n > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1e-3

    assert fastest(machine(seconds, monkeypatch, "cuda"), plan(1_000_000)) == 8


def sizes_of(directory: Path) -> list[int]:
    return [entry["batch_size"] for entry in manifest(directory)]


def test_a_resumed_job_keeps_its_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    measured = iter([2, 4])
    monkeypatch.setattr("stylefast.editing.job.fastest", lambda generator, plan: next(measured))
    run(tmp_path / "whole", batch_size="auto")
    expected = files(tmp_path / "whole")
    assert sizes_of(tmp_path / "whole") == [2] * 12
    measured = iter([2, 4])
    stopped = iter(job(tmp_path / "stopped", batch_size="auto"))
    assert len(next(stopped).edits) == 2
    stopped.close()  # type: ignore[attr-defined]
    resumed = run(tmp_path / "stopped", batch_size="auto")  # reads the journal
    assert resumed.n_existing == 2 and resumed.batch_size == 2 and files(tmp_path / "stopped") == expected
    for name in sorted(expected)[1:4]:  # the first one is the manifest
        (tmp_path / "stopped" / name).unlink()
    assert run(tmp_path / "stopped", batch_size="auto").n_written == 3  # reads the manifest
    assert files(tmp_path / "stopped") == expected and next(measured) == 4


def test_images_with_other_settings_do_not_give_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stylefast.editing.job.fastest", lambda generator, plan: 3)
    run(tmp_path, grid((4,)), batch_size=2, metadata={"note": 1})
    assert run(tmp_path, grid((5,)), batch_size="auto").batch_size == 3
    assert run(tmp_path, grid((6,)), batch_size="auto", metadata={"note": 1}).batch_size == 2


def test_entries_without_a_size_have_the_former_default(tmp_path: Path):
    run(tmp_path, batch_size=2)
    path = tmp_path / "manifest.jsonl"
    path.write_text(path.read_text().replace(', "batch_size": 2', ""))
    assert run(tmp_path, batch_size="auto").batch_size == 4
    path.write_text(path.read_text().replace('"locality": null', '"locality": null, "batch_size": "2"'))
    with pytest.raises(ValueError, match="line 1 is not an entry of an edit: batch_size must be an integer >= 1"):
        run(tmp_path, batch_size="auto")


def test_shards_agree_on_the_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stylefast.editing.job.fastest", None)
    jobs = [run(tmp_path, batch_size="auto", shard=(i, 3)) for i in (2, 0, 1)]
    assert [job.n_written for job in jobs] == [4] * 3 and {job.total for job in jobs} == {4}
    run(tmp_path / "other", batch_size=2, shard=(0, 3))
    assert run(tmp_path / "other", batch_size="auto", shard=(1, 3)).batch_size == 2


def test_the_total_of_a_shard_is_known_before_it_runs(tmp_path: Path):
    assert job(tmp_path, batch_size="auto", shard=(2, 3)).total == 4
    run(tmp_path, batch_size=5, shard=(0, 3))
    waiting = job(tmp_path, batch_size="auto", shard=(2, 3))
    assert waiting.total == 2
    assert len(list(waiting)) == 1 and waiting.n_written == waiting.total == 2


def job_of(rank: int, directory: Path) -> tuple[int, int]:
    job_module.unmeasured = batch_size.unmeasured = lambda generator: 3 if rank == 0 else 5
    ended = run(directory, batch_size="auto", group=dist.group.WORLD)
    return ended.batch_size, ended.n_written


def test_ranks_take_the_size_of_the_first_rank(tmp_path: Path):
    assert in_ranks(2, job_of, tmp_path) == [(3, 6), (3, 6)]


def test_an_explicit_size_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stylefast.editing.job.fastest", None)
    assert isinstance(run(tmp_path, batch_size=5), Job) and sizes_of(tmp_path) == [5] * 12
    assert run(tmp_path, batch_size=3).n_existing == 12


def test_a_long_job_is_measured(tmp_path: Path):
    whole = job(tmp_path, grid(tuple(range(31)), generator=shared("sg2")), batch_size="auto")
    assert len(next(iter(whole)).edits) == whole.batch_size in (1, 2)


def test_an_editor_measures_before_the_first_batch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stylefast.editing.editor.fastest", lambda generator, plan: len(plan) - 1)
    editor = editor_of("sg2")
    t, r = latents(editor, 1, 2), latents(editor, 3)
    batches = editor.edit(t, r, ["eyes", "nose"], batch_size="auto", progress=False)
    assert [len(batch.edits) for batch in batches] == [3, 1]


def test_another_word_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="batch_size must be an integer >= 1 or 'auto', got 'large'"):
        run(tmp_path, batch_size="large")
