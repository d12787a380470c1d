# SPDX-License-Identifier: Apache-2.0
"""Tests of the provenance of records: commit, changes and sources of the measured code."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import provenance
import pytest


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Source tree that records describe."""
    (tmp_path / "stylefast").mkdir()
    (tmp_path / "stylefast" / "a.py").write_text("a = 1\n")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    provenance.context.cache_clear()
    yield tmp_path
    provenance.context.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def commit(folder: Path) -> None:
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "a")


def test_outside_a_repository_there_is_no_commit(tree: Path):
    context = provenance.context()
    assert (context["commit"], context["dirty"]) == (None, None) and len(context["sources"]) == 12


def test_a_tree_inside_another_repository_has_no_commit(tree: Path, monkeypatch: pytest.MonkeyPatch):
    commit(tree)
    monkeypatch.setattr(provenance, "ROOT", tree / "stylefast")
    assert provenance.context()["commit"] is None


def test_without_git_there_is_no_commit(tree: Path, monkeypatch: pytest.MonkeyPatch):
    git(tree, "init", "-q")
    monkeypatch.setenv("PATH", str(tree))
    assert provenance.context()["commit"] is None


def test_the_commit_is_named_and_changes_mark_it_dirty(tree: Path):
    commit(tree)
    before = provenance.context()
    assert (before["commit"], before["dirty"]) == (git(tree, "rev-parse", "--short", "HEAD"), False)
    (tree / "stylefast" / "a.py").write_text("a = 2\n")
    provenance.context.cache_clear()
    after = provenance.context()
    assert after["commit"] == before["commit"] and after["dirty"] and after["sources"] != before["sources"]
