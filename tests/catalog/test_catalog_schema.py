# SPDX-License-Identifier: Apache-2.0
"""Everything in a catalog file is checked: each bit by the checksum, each field by its declared type and range."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from catalogs import built
from torch import Tensor

from stylefast import Catalog
from stylefast.catalog.files import FORMAT, TENSORS
from stylefast.io.tensors import read_tensors, write_tensors

Change = Callable[[dict[str, Tensor], dict[str, Any]], object]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "faces.safetensors"
    replace(built("sg2")).annotate({"a": [1], "b": [2]}).save(path)
    return path


def header(**entries: Any) -> Change:
    return lambda tensors, header: header["catalog"].update(entries)


def without(name: str) -> Change:
    return lambda tensors, header: header["catalog"].pop(name)


def site(index: int, **entries: Any) -> Change:
    return lambda tensors, header: header["catalog"]["sites"][index].update(entries)


def tensor(name: str, function: Callable[[Tensor], Tensor]) -> Change:
    return lambda tensors, header: tensors.update({name: function(tensors[name])})


def with_value(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x.view(-1)[1] = value
    return x


CHANGES: dict[str, tuple[Change, str]] = {
    "id out of range": (header(parts={"a": [99]}), r"parts must hold clusters in \[0, K\)"),
    "negative id": (header(parts={"a": [-1]}), "parts must hold clusters"),
    "ids are texts": (header(parts={"a": ["0"]}), r"catalog.parts\['a'\]\[0\] must be int, got '0'"),
    "ids are flags": (header(parts={"a": [True]}), "must be int, got True"),
    "ids are numbers with a point": (header(parts={"a": [1.0]}), "must be int, got 1.0"),
    "ids are a number": (header(parts={"a": 1}), r"catalog.parts\['a'\] must be list\[int\], got 1"),
    "a repeated id": (header(parts={"a": [1, 1]}), "parts must list a cluster once"),
    "parts is a number": (header(parts=5), "catalog.parts must be dict"),
    "parts is a list": (header(parts=[["a", [1]]]), "catalog.parts must be dict"),
    "parts is null": (header(parts=None), "catalog.parts must be dict.* got None"),
    "provenance is a list": (header(provenance=[1]), "catalog.provenance must be dict"),
    "provenance is a text": (header(provenance="a"), "catalog.provenance must be dict"),
    "generator is a number": (header(generator=1), "catalog.generator must be str, got 1"),
    "generator is null": (header(generator=None), "catalog.generator must be str, got None"),
    "fingerprint is a text": (header(fingerprint="a"), "catalog.fingerprint must be dict"),
    "fingerprint of numbers": (header(fingerprint={"sites": 1}), r"catalog.fingerprint\['sites'\] must be str"),
    "features is unknown": (header(features="cubed"), "catalog.features must be Literal.*got 'cubed'"),
    "features is a list": (header(features=["raw"]), "catalog.features must be Literal"),
    "layer is unknown": (header(layer="b9999"), "layer must be the tensor of a site, got 'b9999'"),
    "layer is a number": (header(layer=3), "catalog.layer must be str"),
    "sites is a dictionary": (header(sites={}), "catalog.sites must be list"),
    "no sites": (header(sites=[]), "layer must be the tensor of a site"),
    "a site is a text": (header(sites=["convs.0"]), r"catalog.sites\[0\] must be a JSON object, got 'convs.0'"),
    "a site lacks a field": (header(sites=[{"name": "a"}]), r"catalog.sites\[0\] lacks channels"),
    "a site has another field": (site(0, other=1), r"catalog.sites\[0\] has the unknown entry 'other'"),
    "a size is a number": (site(0, size=4), r"catalog.sites\[0\].size must be tuple"),
    "a size has three sides": (site(0, size=[4, 4, 4]), r"catalog.sites\[0\].size must be tuple"),
    "a size of texts": (site(0, size=["4", 4]), r"catalog.sites\[0\].size\[0\] must be int"),
    "a size of zero": (site(0, size=[0, 4]), "sites must follow each other"),
    "channels is a text": (site(1, channels="32"), r"catalog.sites\[1\].channels must be int"),
    "negative channels": (site(1, channels=-32), "sites must follow each other"),
    "sites that overlap": (site(1, start=0), "sites must follow each other"),
    "a kind is unknown": (site(0, kind="gray"), r"catalog.sites\[0\].kind must be Literal"),
    "normalized is a number": (site(0, normalized=0), r"catalog.sites\[0\].normalized must be bool, got 0"),
    "an unknown entry": (header(other=1), "catalog has the unknown entry 'other'"),
    "no parts": (without("parts"), "catalog lacks parts"),
    "no sites entry": (without("sites"), "catalog lacks sites"),
    "catalog is a list": (lambda tensors, header: header.update(catalog=[]), "catalog must be a JSON object"),
    "no catalog": (lambda tensors, header: header.pop("catalog"), "its header lacks catalog"),
    "int64 M": (tensor("contributions", lambda x: x.long()), "contributions must be float32, got torch.int64"),
    "float64 centroids": (tensor("centroids", lambda x: x.double()), "centroids must be float32, got torch.float64"),
    "scalar centroids": (tensor("centroids", lambda x: x[0, 0]), r"centroids must have shape \[K, C\], got \(\)"),
    "NaN centroid": (tensor("centroids", lambda x: with_value(x, torch.nan)), r"centroids must be finite.*\(0, 1\)"),
    "Inf in M": (tensor("contributions", lambda x: with_value(x, torch.inf)), r"contributions must be finite"),
    "NaN in runs": (tensor("runs", lambda x: with_value(x, torch.nan)), "runs must be finite, got nan"),
    "NaN in occupancy": (tensor("occupancy", lambda x: with_value(x, torch.nan)), "occupancy must be finite"),
    "K of M, not of centroids": (tensor("centroids", lambda x: x[:1]), r"must have shape \[B, K, C\] with K = 1"),
    "S of other sites": (tensor("contributions", lambda x: x[:, 1:]), "tensors must have the sizes"),
    "occupancy of another size": (tensor("occupancy", lambda x: x[:, 1:]), "tensors must have the sizes"),
    "no tensor": (lambda tensors, header: tensors.pop("runs"), "tensor runs is missing"),
    "another tensor": (lambda tensors, header: tensors.update(other=torch.ones(1)), "tensor 'other' is unknown"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_fields_that_do_not_fit_are_refused(name: str, saved: Path):
    change, message = CHANGES[name]
    tensors, entries = read_tensors(saved, FORMAT)
    change(tensors, entries)
    write_tensors(saved, FORMAT, tensors, **entries)
    with pytest.raises(ValueError, match=f"^{re.escape(str(saved))} cannot be used: .*{message}"):
        Catalog.load(saved)


def test_no_clusters_are_refused(saved: Path):
    tensors, entries = read_tensors(saved, FORMAT)
    tensors = {name: x[:, :0] if name == "runs" else x[:0] for name, x in tensors.items()}
    entries["catalog"]["parts"] = {}
    write_tensors(saved, FORMAT, tensors, **entries)
    with pytest.raises(ValueError, match="K >= 1"):
        Catalog.load(saved)


def test_every_flipped_bit_is_found_or_changes_nothing(saved: Path):
    """The checksum covers the header: each bit of the JSON and of its length, and one bit in each tensor."""
    intact, expected = saved.read_bytes(), contents(Catalog.load(saved))
    (length,) = struct.unpack("<Q", intact[:8])
    positions = [*range(8 + length), *range(8 + length, len(intact), len(intact) // 50)]
    n_refused = 0
    for position in positions[:: max(1, len(positions) // 600)]:
        for bit in (0, 3, 6):
            flipped = bytearray(intact)
            flipped[position] ^= 1 << bit
            saved.write_bytes(flipped)
            try:
                assert contents(Catalog.load(saved)) == expected, (position, bit)
            except ValueError as error:
                assert str(error).startswith(f"{saved} cannot be used: ")
                n_refused += 1
    assert n_refused > 1000


def contents(catalog: Catalog) -> Any:
    fields = {name: value for name, value in vars(catalog).items() if name not in TENSORS}
    fields["sites"] = [asdict(site) for site in catalog.sites]
    return json.dumps(fields), [getattr(catalog, name).tolist() for name in TENSORS]


def test_a_catalog_that_could_not_be_read_is_not_written(tmp_path: Path):
    path, good = tmp_path / "a.safetensors", built("sg2")
    for fields, message in (
        ({"parts": {"a": [99]}}, "parts must hold clusters"),
        ({"contributions": good.contributions / 0}, "contributions must be finite"),
        ({"centroids": good.centroids[:1]}, "runs must have shape"),
        ({"features": "cubed"}, "catalog.features must be Literal"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(good, **fields).save(path)
        assert not list(tmp_path.iterdir())


def test_a_later_version_is_named(saved: Path):
    tensors, entries = read_tensors(saved, FORMAT)
    write_tensors(saved, "stylefast-catalog-12", tensors, **entries)
    with pytest.raises(ValueError, match="stylefast-catalog-12, which a later version of stylefast wrote, .*; update"):
        Catalog.load(saved)
