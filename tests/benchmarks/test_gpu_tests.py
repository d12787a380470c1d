# SPDX-License-Identifier: Apache-2.0
"""Tests of the stage `tests`: outcomes in the logs of pytest, the exit status, and the shards of the tests."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from gpu import statuses
from gpu import tests as stage_tests
from gpu.processes import Ended
from provenance import ROOT

PYTEST = """collecting ... collected 9 items / 5 deselected / 4 selected

tests/ops/test_battery.py::test_agrees[a - b-cuda] PASSED [ 25%]
tests/ops/test_battery.py::test_agrees[c-triton] FAILED [ 50%]
tests/ops/test_battery.py::test_agrees[d-triton] SKIPPED (no) [ 75%]
tests/ops/test_battery.py::test_agrees[e-triton] """


def test_outcomes_are_counted_even_if_the_log_is_cut():
    assert stage_tests.outcomes(PYTEST) == Counter(PASSED=1, FAILED=1, SKIPPED=1, selected=4)
    assert stage_tests.outcomes("collected 3 items\n")["selected"] == 3


@pytest.mark.parametrize(
    "status, log, failed",
    [
        (0, "a::b PASSED", False),
        (None, "a::b PASSED", False),
        (5, "", False),
        (1, "a::b FAILED", True),
        (None, "a::b FAILED", True),
        (-11, "a::b PASSED", True),
        (4, "ERROR: usage", True),
    ],
)
def test_a_crash_is_a_failure_and_a_deadline_is_not(status: int | None, log: str, failed: bool):
    assert stage_tests.has_failed(Ended("1/1", status, log)) == failed


@pytest.mark.parametrize(
    "logs, status",
    [
        (["a::b PASSED"], 0),
        (["a::b PASSED", "a::c FAILED"], 1),
        (["a::b PASSED", "a::c ERROR"], 1),
        (["collected 3 items"], 1),
    ],
)
def test_tests_pass_if_some_pass_and_none_fails(
    logs: list[str], status: int, monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    monkeypatch.setattr(stage_tests, "write", lambda kind, **fields: None)
    monkeypatch.setattr(stage_tests, "missing", list)
    assert stage_tests.judge([Ended(str(i), 0, log) for i, log in enumerate(logs)]) == status
    cut = stage_tests.judge([*(Ended(str(i), 0, log) for i, log in enumerate(logs)), Ended("x", None, "")])
    assert cut == (statuses.CUT if status == 0 else 1)


def test_every_test_is_in_one_shard(pytestconfig: pytest.Config):
    conftest: Any = pytestconfig.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))

    class Config:
        hook = type("Hook", (), {"pytest_deselected": staticmethod(lambda items: None)})

        def __init__(self, shard: str, first: str) -> None:
            self.options = {"--shard": shard, "--first": first}

        def getoption(self, name: str) -> str:
            return self.options[name]

    class Item:
        def __init__(self, nodeid: str) -> None:
            self.nodeid = nodeid

    collected = [Item(f"test_{'ab'[i % 2]}[{'cuda' if i % 4 < 2 else 'triton'}-{i}]") for i in range(103)]
    sharded = []
    for number in range(1, 17):
        items = list(collected)
        conftest.pytest_collection_modifyitems(Config(f"{number}/16", "test_b,test_a"), items)
        names = [item.nodeid for item in items]
        assert names == sorted(names, key=lambda name: "test_a" in name)
        assert {"cuda" in name for name in names} == {True, False}
        sharded += names
    assert sorted(sharded) == sorted(item.nodeid for item in collected)
