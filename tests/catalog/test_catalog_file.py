# SPDX-License-Identifier: Apache-2.0
"""Catalog files: saving, loading, and errors that name an unusable file."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from catalogs import built
from networks import shared
from safetensors.torch import save_file

from stylefast import Catalog
from stylefast.catalog.files import FORMAT
from stylefast.generators.toy import toy
from stylefast.io.tensors import checksum

TENSORS = ("centroids", "runs", "contributions", "occupancy")


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "faces.safetensors"
    replace(built("sg2")).annotate({"second": [3, 1], "first": [0], "none": torch.zeros(1, 1)}).save(path)
    return path


def test_a_file_gives_back_the_catalog_bit_for_bit(saved):
    catalog, generator = built("sg2"), shared("sg2")
    for path in (saved, str(saved)):
        read = Catalog.load(path, generator)
        for name in TENSORS:
            got, expected = getattr(read, name), getattr(catalog, name)
            assert got.dtype == expected.dtype and torch.equal(got, expected), name
        assert list(read.parts.items()) == [("second", [1, 3]), ("first", [0]), ("none", [])]
        for name in ("generator", "fingerprint", "sites", "layer", "features", "provenance"):
            assert getattr(read, name) == getattr(catalog, name), name
        assert asdict(read.sites[0]) == asdict(generator.sites[0]) and isinstance(read.sites[0].size, tuple)


def test_saving_overwrites_a_file_and_creates_folders(saved):
    read = Catalog.load(saved)
    read.annotate({"other": [5]}).save(saved)
    assert Catalog.load(saved).parts == {"other": [5]}
    read.save(saved.parent / "new" / "folder" / "faces")
    assert Catalog.load(saved.parent / "new" / "folder" / "faces").parts == {"other": [5]}


def test_equal_catalogs_give_equal_files(tmp_path):
    for i in range(8):
        replace(built("sg2"), seconds={"generator": i}).save(tmp_path / str(i))
    assert len({(tmp_path / str(i)).read_bytes() for i in range(8)}) == 1


def test_tensors_that_are_views_are_saved_by_value(tmp_path):
    catalog = built("sg2")
    flipped = replace(catalog, contributions=catalog.contributions.T.contiguous().T, centroids=catalog.runs[0])
    flipped.save(tmp_path / "views")
    assert torch.equal(Catalog.load(tmp_path / "views").contributions, catalog.contributions)
    assert torch.equal(Catalog.load(tmp_path / "views").centroids, catalog.runs[0])


def test_refusing_another_generator_names_the_differing_site(saved):
    message = (
        f"{saved} cannot be used: catalog of 'toy:sg2' does not belong to generator 'toy:sg1': the "
        "first site that differs is convs.0 (4, 4) x 32 in the catalog, layers.0 (4, 4) x 32 in the generator"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        Catalog.load(saved, shared("sg1"))


def test_a_difference_in_any_site_or_their_number_is_refused():
    catalog = built("sg2")
    wider = replace(catalog.sites[3], channels=48)
    with pytest.raises(ValueError, match=re.escape("convs.2 (8, 8) x 48 in the catalog, convs.2 (8, 8) x 32 in the")):
        replace(catalog, sites=(*catalog.sites[:3], wider, *catalog.sites[4:])).check(shared("sg2"))
    for sites, count in ((catalog.sites[:-1], 10), ((*catalog.sites, wider), 12)):
        with pytest.raises(ValueError, match=f"{count} sites in the catalog, 11 in the generator"):
            replace(catalog, sites=sites).check(shared("sg2"))


def test_a_catalog_of_other_weights_is_refused(saved):
    Catalog.load(saved, toy("sg2")).check(toy("sg2"))
    with pytest.raises(ValueError, match=re.escape(f"{saved} cannot be used: ") + ".* other weights"):
        Catalog.load(saved, toy("sg2", seed=1))


def test_files_that_are_no_catalogs_are_refused_by_name(saved, tmp_path):
    intact = saved.read_bytes()
    damaged = {
        "half": intact[: len(intact) // 2],
        "short": intact[:100],
        "less": intact[:-1],
        "flipped": intact[:-1] + bytes([intact[-1] ^ 1]),
    }
    damaged |= {"empty": b"", "text": b"no tensors, only words " * 9}
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
    tensors = {name: getattr(built("sg2"), name) for name in TENSORS}
    save_file(tensors, tmp_path / "foreign")
    valid_header = {"crc32": checksum(tensors), "of": None, "catalog": {"sites": []}}
    headers = {"later": {"stylefast-catalog-9": "{}"}, "garbled": {FORMAT: "{"}, "headless": {FORMAT: "{}"}}
    headers |= {
        "hollow": {FORMAT: json.dumps(valid_header)},
        "swapped": {FORMAT: json.dumps({**valid_header, "crc32": 1})},
    }
    for name, metadata in headers.items():
        save_file(tensors, tmp_path / name, metadata=metadata)
    for name in (*damaged, *headers, "foreign"):
        with pytest.raises(ValueError, match=re.escape(f"{tmp_path / name} cannot be used: ")):
            Catalog.load(tmp_path / name)
    with pytest.raises(ValueError, match="it is a safetensors file of another program, not a catalog"):
        Catalog.load(tmp_path / "foreign")
    with pytest.raises(FileNotFoundError, match="missing"):
        Catalog.load(tmp_path / "missing")


def test_a_folder_is_refused_by_name(tmp_path):
    for path in (tmp_path, str(tmp_path)):
        with pytest.raises(ValueError, match=re.escape(f"{tmp_path} cannot be used: it is a folder")):
            Catalog.load(path)


def test_an_interrupted_save_leaves_only_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def interrupted(path, content):
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        built("sg2").save(saved)
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]
