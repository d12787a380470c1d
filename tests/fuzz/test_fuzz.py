# SPDX-License-Identifier: Apache-2.0
"""The fuzz job finds planted faults in every op and in readers, and repeats a failed case alone."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import drawing
import fuzz_files
import mutations
import numpy as np
import pytest
import targets
import torch
from check import Check
from corpus import Format
from torch import Tensor

import stylefast

N_CASES = 60  # the job runs some thousands in a minute


def _scaled(x: Tensor) -> Tensor:
    return x * (1 + 1e-3) if x.is_floating_point() else x


def _without_last(x: Tensor) -> Tensor:
    """Return labels or values of which the last one is that of the one before it, as after a wrong bound of a loop."""
    flat = x.flatten()
    flat[-1:] = flat[-2:-1] if len(flat) > 1 else 0
    return flat.view(x.shape)


def _without_first_row(x: Tensor) -> Tensor:
    rows = torch.atleast_1d(x.clone())
    rows[:1] = 0
    return rows.view(x.shape)


FAULTS = (_scaled, _without_last, _without_first_row)


def _planted(op: Callable[..., Any], fault: Callable[[Tensor], Tensor], field: int | None) -> Callable[..., Any]:
    """Return an op with a fault in its result, or in one field of it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        result = op(*args, **kwargs)
        if field is None:
            result.data = fault(result)
            return result
        return result._replace(**{result._fields[field]: fault(result[field])})

    return call


def _has_fault(name: str) -> bool:
    """Run cases of an op until one fails. Return whether one has failed."""
    for number in range(N_CASES):
        try:
            import_module(f"fuzz_{name}").run(np.random.default_rng([0, number]), drawing.SMALL, "reference", Check())
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("name", "field"),
    [
        *(("assign", field) for field in range(2)),
        *(("lloyd_step", field) for field in range(4)),
        ("contribution", None),
        *(("assign_contribution", field) for field in range(2)),
        ("soft_contribution", None),
        *(("assign_soft_contribution", field) for field in range(2)),
        ("blend", None),
        *(("pruned_step", field) for field in range(5)),
        *(("nmf_step", field) for field in range(4)),
        ("inverse_haar", None),
        ("separable_conv", None),
        ("winograd_conv", None),
    ],
)
def test_planted_faults_are_found(
    name: str, field: int | None, fault: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
):
    integers = {("assign", 0), ("lloyd_step", 0), ("lloyd_step", 2), ("assign_contribution", 0), ("pruned_step", 0)}
    integers |= {("assign_soft_contribution", 0), ("pruned_step", 3)}
    if (name, field) in integers and fault is _scaled:
        pytest.skip("scaling leaves integers as they are")
    module = stylefast if hasattr(stylefast, name) else import_module(f"fuzz_{name}")
    monkeypatch.setattr(module, name, _planted(getattr(module, name), fault, field))
    assert _has_fault(name)


@pytest.mark.parametrize("name", [op.name for op in targets.ROWS])
def test_the_reference_has_no_faults(name: str):
    assert not _has_fault(name)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda path: {}["a"], "KeyError"),
        (lambda path: int("a"), "must name the file"),
        (lambda path: path.read_bytes(), "must not match the checksum"),
    ],
)
def test_faults_of_readers_are_found(
    read: Callable[[Path], Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fmt, valid = Format("a.bin", lambda path: path.write_bytes(b"valid"), read, True), tmp_path / "valid" / "a.bin"
    valid.parent.mkdir()
    fmt.write(valid)
    monkeypatch.setattr(fuzz_files, "_corpus", lambda folder: [(fmt, valid, "contents")])
    monkeypatch.setattr(fuzz_files, "chance", lambda rng, probability: False)
    with pytest.raises((AssertionError, KeyError)) as error:
        fuzz_files.run(np.random.default_rng(0), tmp_path, Check())
    assert message in f"{error.type.__name__}: {error.value}"


@pytest.mark.parametrize("data", [b"", b"a", b"PK\x03\x04", bytes(8) + b"{}", b"{}\n", bytes(100)])
def test_all_contents_can_be_mutated(data: bytes):
    mutated = {mutations.mutate(np.random.default_rng(seed), data) for seed in range(200)}
    assert len(mutated) > 3


def test_layouts_keep_values():
    x = torch.arange(120.0).view(2, 3, 4, 5)
    views = [drawing.any_layout(np.random.default_rng(seed), x) for seed in range(50)]
    assert all(torch.equal(view, x) for view in views) and len({view.stride() for view in views}) > 20


def test_a_child_runs_a_single_case(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["fuzz", "--target", "reference", "--case", "1:3"])
    monkeypatch.setattr(sys, "path", sys.path.copy())
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(Path(__file__).with_name("__main__.py")), run_name="__main__")
    assert end.value.code == 0 and "reference: 1 cases, 0 failures" in capsys.readouterr().out
