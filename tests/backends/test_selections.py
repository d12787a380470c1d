# SPDX-License-Identifier: Apache-2.0
"""The words by which other steps select tests. Each must occur in the id of a test.

Otherwise a selection would silently change when a test is renamed.
"""

from __future__ import annotations

import re
from pathlib import Path

import cuda_on_cpu
import pytest
import sanitized
from gpu import tests as stage_tests

ROOT = Path(__file__).parents[2]


def omitted_from_triton() -> str:
    """Value of TRITON_OMITS in the Makefile."""
    match = re.search(r"^TRITON_OMITS := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert match is not None
    return match[1].replace("\\\n", " ")


class Collected:
    """A plugin that keeps the ids of the collected tests."""

    ids = ""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.ids = "\n".join(item.nodeid for item in session.items)


@pytest.fixture(scope="module")
def ids() -> str:
    """Ids of all tests of the ops. If this process has collected them before, their modules are not imported again."""
    collected = Collected()
    options = ["-q", "--collect-only", "-p", "no:cacheprovider", "-p", "no:faulthandler"]
    assert pytest.main([*options, str(ROOT / "tests" / "ops")], plugins=[collected]) == pytest.ExitCode.OK
    return collected.ids


SELECTIONS = {
    "triton": omitted_from_triton(),
    "cuda": cuda_on_cpu.OMITTED,
    "sanitizers": sanitized.EDGES,
    "stage tests": stage_tests.FIRST,
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_every_word_of_a_selection_names_a_test(name: str, ids: str):
    words = set(re.findall(r"[\w.+-]+", SELECTIONS[name])) - {"and", "or", "not"}
    assert len(words) >= 3 and not [word for word in words if word not in ids]
