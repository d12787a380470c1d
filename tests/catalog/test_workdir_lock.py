# SPDX-License-Identifier: Apache-2.0
"""Two builds with one workdir: the second one is refused while the first one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from catalogs import build
from forked import in_ranks
from networks import shared

from stylefast.catalog.build import Build
from stylefast.io.private import folder_lock


def test_a_workdir_serves_one_build_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    generator, collect = shared("sg2"), Build.collect

    def second_build(self: Build) -> None:
        monkeypatch.setattr(Build, "collect", collect)
        with pytest.raises(ValueError, match=f"two builds at the same time, got {tmp_path}/work"):
            build(generator, workdir=tmp_path / "work")
        build(generator, workdir=tmp_path / "other")
        collect(self)

    monkeypatch.setattr(Build, "collect", second_build)
    build(generator, workdir=tmp_path / "work")
    names = sorted(path.name for path in (tmp_path / "work").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "other").iterdir()) and not names[0].startswith(".")


def message_of(rank: int, directory: Path) -> str:
    try:
        build(shared("sg2"), workdir=directory, group=dist.group.WORLD)
    except ValueError as error:
        return str(error)
    return ""


def test_all_ranks_refuse_a_workdir_that_is_in_use(tmp_path: Path):
    with folder_lock(tmp_path):
        messages: list[Any] = in_ranks(2, message_of, tmp_path)
    assert messages == [f"workdir must not be used by two builds at the same time, got {tmp_path}"] * 2
    assert list(tmp_path.iterdir()) == []
