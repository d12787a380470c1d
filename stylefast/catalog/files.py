# SPDX-License-Identifier: Apache-2.0
"""Files of catalogs: declared types of their header and tensors, checked before writing and after reading."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, TypedDict, get_type_hints

from torch import Tensor

from ..core.checks import check_clusters
from ..generators import Site
from ..io.atomic import PathLike
from ..io.schema import TensorSpec, check_tensor_table, decode
from ..io.tensors import read_tensors, write_tensors

FORMAT = "stylefast-catalog-2"
MAX_PARTS = 4096
TENSORS = {
    "centroids": TensorSpec("K C"),
    "runs": TensorSpec("B K C"),
    "contributions": TensorSpec("K S"),
    "occupancy": TensorSpec("K h w"),
}


class _Required(TypedDict):
    generator: str
    fingerprint: dict[str, str]
    layer: str
    features: Literal["raw", "standardized", "squared"]
    parts: dict[str, list[int]]
    provenance: dict[str, Any]
    sites: list[Site]


class Header(_Required, total=False):
    """Entries of the header. The fields of `Catalog` with the same names document them."""

    method: Literal["kmeans", "nmf"]  # files of k-means lack it


def write_catalog(path: PathLike, fields: Mapping[str, Any]) -> None:
    """Write the fields of a catalog to a file, atomically. Equal fields give equal bytes.

    Raises:
        ValueError: If the fields do not fit together, so that the file could not be read again.
    """
    header = {name: fields[name] for name in get_type_hints(Header) if (name, fields[name]) != ("method", "kmeans")}
    header["sites"] = [asdict(site) for site in fields["sites"]]
    tensors = {name: fields[name] for name in TENSORS}
    _check(json.loads(json.dumps(header)), tensors)
    write_tensors(path, FORMAT, tensors, catalog=header)


def read_catalog(path: PathLike) -> dict[str, Any]:
    """Read the fields of a catalog.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is no catalog or is damaged, or its fields do not fit together. The message names the
            file.
    """
    tensors, header = read_tensors(path, FORMAT)
    try:
        if "catalog" not in header:
            raise ValueError("its header lacks catalog")
        fields = _check(header["catalog"], tensors)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} cannot be used: {error}") from error
    return {**fields, **tensors, "sites": tuple(fields["sites"])}


def _check(header: Any, tensors: Mapping[str, Tensor]) -> Header:
    """Return the header with its declared types. Raise ValueError unless header and tensors fit together."""
    parts = header.get("parts") if isinstance(header, dict) else None
    if isinstance(parts, dict) and len(parts) > MAX_PARTS:
        raise ValueError(f"parts must be at most {MAX_PARTS} names, got {len(parts)}")
    fields: Header = decode(Header, header, "catalog")
    lengths = check_tensor_table(TENSORS, tensors)
    k, start = lengths["K"], 0
    for site in fields["sites"]:
        if site.channels < 1 or site.start != start or min(site.size) < 1:
            raise ValueError(f"sites must follow each other, with at least one channel, got {site}")
        start = site.stop
    layer = next((site for site in fields["sites"] if site.tensor == fields["layer"]), None)
    if layer is None:
        raise ValueError(f"layer must be the tensor of a site, got {fields['layer']!r}")
    expected = {"C": layer.channels, "S": start, "h": layer.size[0], "w": layer.size[1]}
    if k < 1 or lengths != {**lengths, **expected}:
        got = {letter: lengths[letter] for letter in ("K", *expected)}
        raise ValueError(f"tensors must have the sizes {expected} of the sites and K >= 1, got {got}")
    if fields.get("method") == "nmf" and bool((tensors["centroids"] < 0).any()):
        raise ValueError('centroids must be >= 0 with method "nmf", got negative values')
    check_clusters("parts", fields["parts"], k)
    for part, ids in fields["parts"].items():
        if len(set(ids)) != len(ids):
            raise ValueError(f"parts must list a cluster once, got {part!r}: {ids}")
    return fields
