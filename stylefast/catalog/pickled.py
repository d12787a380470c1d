# SPDX-License-Identifier: Apache-2.0
"""Clusters and their names from pickles of other tools: k-means of scikit-learn, catalogs of the paper's authors."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..io.atomic import PathLike
from ..io.kinds import refusal
from ..io.storages import to_tensor
from ..io.unpickling import (
    ARRAYS,
    DICTIONARIES,
    READ_ERRORS,
    TENSORS,
    InertObject,
    dict_entries,
    read_pickle,
    to_array,
    type_name,
)

INERT = r"(\w+\.)*(FactorCatalog|(MiniBatch)?(Spherical)?KMeans)|numpy\.random\.(\w+\.)*\w+"
ATTRIBUTES = ("cluster_centers_", "counts_", "labels_", "annotations")


class Clusters(NamedTuple):
    """Contents of a pickled k-means estimator, which may be a part of a pickled catalog.

    Attributes:
        centroids: Centroids of shape [K, C], float32. They are not normalised.
        counts: Number of points of each cluster, [K]; or None.
        labels: Labels of the points that the estimator was fitted to; or None.
        parts: Ids of the clusters of each part, by the name of the part, from the annotations of the catalog.
    """

    centroids: Tensor
    counts: Tensor | None
    labels: Tensor | None
    parts: dict[str, list[int]]


def read_clusters(path: PathLike) -> Clusters:
    """Read clusters and their names from a pickle. No code in the file is run.

    The attributes `cluster_centers_`, `counts_`, `labels_` and `annotations` may be anywhere in the pickled object.

    Args:
        path: Path of the file.

    Returns:
        `Clusters(centroids, counts, labels, parts)`. Without annotations, there are no parts.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file needs types other than k-means, catalogs, arrays and tensors (the message names the
            type), it has no finite centroids of shape [K, C], or its annotations are not lists of cluster ids.
    """
    try:
        if reason := refusal(path, "clusters"):
            raise ValueError(reason)
        content = read_pickle(path, {*ARRAYS, *DICTIONARIES, *TENSORS}, allowed_pattern=INERT)
        attributes: dict[str, Any] = {}
        for entries in _dictionaries(content):
            attributes |= {name: entries[name] for name in ATTRIBUTES if entries.get(name) is not None}
        if "cluster_centers_" not in attributes:
            raise ValueError("it holds no cluster_centers_")
        centroids = _tensor(attributes["cluster_centers_"]).float()
        counts, labels = (_tensor(attributes[name]) if name in attributes else None for name in ("counts_", "labels_"))
        if centroids.ndim != 2 or not centroids.numel() or not centroids.isfinite().all():
            raise ValueError(f"cluster_centers_ must be finite, of shape [K, C], got {tuple(centroids.shape)}")
        annotations = dict_entries(attributes.get("annotations", {}))
        parts = {str(part): _ids(str(part), value, len(centroids)) for part, value in annotations.items()}
    except (ValueError, *READ_ERRORS) as error:
        prefix = f"{os.fspath(path)} cannot be used: "
        raise ValueError(prefix + (str(error) or type(error).__name__).removeprefix(prefix)) from error
    return Clusters(centroids, counts, labels, parts)


def _dictionaries(content: Any) -> Iterator[dict[Any, Any]]:
    """Yield every dictionary in an inert object, at any depth, once."""
    pending, seen = [content], set[int]()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, InertObject):
            pending += [value.items, value.state, *value.args]
        elif isinstance(value, dict):
            yield value
            pending += value.values()
        elif isinstance(value, list | tuple):
            pending += value


def _tensor(value: Any) -> Tensor:
    if type_name(value) in TENSORS:
        return to_tensor(value)
    return torch.from_numpy(np.asarray(to_array(value) if isinstance(value, InertObject) else value, order="C"))


def _ids(part: str, value: Any, k: int) -> list[int]:
    ids = _tensor(value).flatten().tolist() if isinstance(value, InertObject) else value
    ids = [
        int(_tensor(i)) if isinstance(i, InertObject) else i for i in (ids if isinstance(ids, list | tuple) else [ids])
    ]
    if not all(type(i) is int and 0 <= i < k for i in ids):
        raise ValueError(f"annotations of {part} must be ids of its {k} clusters, got {reprlib.repr(ids)}")
    return ids
