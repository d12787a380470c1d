# SPDX-License-Identifier: Apache-2.0
"""Fixtures with catalogs that the command line built, and with a page that it serves."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import BUILD, NETWORK, run

import stylefast
from stylefast import Catalog


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("built") / "toy.safetensors"
    run(*BUILD, "--out", path, "--trunc", "0.9", "--seed", "4")
    return path


@pytest.fixture
def catalog(built, tmp_path):
    """An annotated copy of the catalog."""
    path = tmp_path / "toy.safetensors"
    shutil.copy(built, path)
    Catalog.load(path).annotate({"eyes": [0, 3], "nose": [1]}).save(path)
    return path


@pytest.fixture
def page_process(catalog: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The command `stylefast app` in a process of its own, at a port that no other test takes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = [*NETWORK, "--catalog", str(catalog), "--outdir", str(tmp_path / "out"), "--engine", "eager"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "stylefast", "app", *arguments, "--no-open", "--port", port],
        env=os.environ | {"PYTHONPATH": str(Path(stylefast.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.wait()
