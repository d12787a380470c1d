# SPDX-License-Identifier: Apache-2.0
"""Fixtures with catalogs that the command line built."""

import shutil

import pytest
from commands import BUILD, run

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
