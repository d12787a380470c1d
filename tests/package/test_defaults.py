# SPDX-License-Identifier: Apache-2.0
"""The default dtype and the default device of torch, which users set, change no result."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import skip_unless
from torch import Tensor
from torch.testing import assert_close

import stylefast
from stylefast import Catalog, SphericalKMeans, StyleEditor, backends, query
from stylefast.backends import BACKENDS
from stylefast.catalog import Clustering
from stylefast.editing.strategies import Random, Sequential, Simultaneous
from stylefast.locality import locality
from stylefast.ops import OPS

SETTINGS = ["float64", "float16", "meta", "set meta"]


@contextmanager
def user_defaults(setting: str) -> Iterator[None]:
    """Set a default dtype, or a default device as a context or for the process."""
    try:
        if setting == "meta":
            with torch.device("meta"):
                yield
            return
        if setting == "set meta":
            torch.set_default_device("meta")
        elif setting != "none":
            torch.set_default_dtype(getattr(torch, setting))
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, np.ndarray):
        return [torch.from_numpy(value)]
    return [value] if isinstance(value, Tensor) else [x for item in value for x in tensors(item)]


def same_under(setting: str, function: Callable[[], Any]) -> None:
    expected = tensors(function())
    with user_defaults(setting):
        got = tensors(function())
    assert_close(got, expected, rtol=0, atol=0, equal_nan=True)  # also equal dtypes and devices


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("backend", [pytest.param(name, marks=skip_unless(name)) for name in BACKENDS])
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_ops_ignore_the_defaults(op: Any, backend: str, setting: str):
    _, inputs = next(op.samples())
    options = {"strength": 0.3, "mode": "norm_preserving"} if op.name == "blend" else {}
    same_under(setting, lambda: op.public(**{**inputs, **options}, backend=backend))


def clustering() -> list[Any]:
    x = np.random.RandomState(0).randn(200, 7).astype(np.float32)
    found: list[Any] = []
    for init in ("k-means++", "random"):
        model = SphericalKMeans(4, n_init=2, init=init, max_iter=5, seed=0).fit(x)
        found += [model.centroids_, model.labels_, model.predict(x)]
    model = SphericalKMeans(4, seed=0).partial_fit(x).partial_fit(x)
    return [*found, model.centroids_]


def queries() -> list[Any]:
    m: Any = np.random.RandomState(0).rand(3, 40)
    half: Any = torch.from_numpy(m).half()
    return [
        found
        for x in (m, half)
        for found in (
            query.simultaneous(x, 0.5),
            query.sequential(x, np.array([5, 6, 7]), 0.1, fractional=True),
            query.sequential(x, 5, 0.1, rho_mode="paper"),
            query.softmax(x, 1),
            query.coarse_split(query.simultaneous(x, 1), 0, channels=3),
        )
    ]


def pipeline(name: str) -> list[Any]:
    generator = stylefast.generators.load(name)
    w = generator.latents(range(3))
    options = Clustering(n_clusters=3, resolution=36 if name == "toy:sg3" else 16, n_init=1)
    catalog = Catalog.build(generator, w, options, progress=False).annotate({"a": [0, 1]})
    found: list[Any] = [w, generator.styles(w), catalog.contributions, catalog.centroids]
    editor = StyleEditor(generator, catalog)
    queries = [Sequential(20, 0.05), Simultaneous(1), Random(Sequential(20, 0.05), seed=1)]
    for batch in editor.edit(w[:1], w[1:], "a", queries=queries, strength=0.7, measure=True, progress=False):
        found += [batch.images, batch.locality]
    images = generator.synthesize(generator.styles(w), w)
    return [*found, images, locality(images[:1], images[1:2], torch.ones_like(images[:1, 0], dtype=torch.bool))]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("function", [clustering, queries], ids=lambda f: f.__name__)
def test_clustering_and_queries_ignore_the_defaults(function: Callable[[], list[Any]], setting: str):
    same_under(setting, function)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["toy:sg1", "toy:sg2", "toy:sg3"])
def test_editing_ignores_the_defaults(name: str, setting: str):
    same_under(setting, lambda: pipeline(name))


PACKAGE = Path(backends.__file__).parents[1]
FLOATS = {"zeros", "ones", "empty", "rand", "randn", "linspace", "eye", "logspace"}
OTHERS = {"arange", "full", "randint", "randperm", "tensor", "as_tensor", "asarray", "scalar_tensor"}
BUILT_BY_LOAD = tuple(f"generators/{name}.py" for name in ("toy", "stylegan2", "stylegan3", "lucidrains"))


def unnamed(source: str) -> list[int]:
    """Lines with a call of torch that creates a tensor of a default dtype or on the default device."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("torch."):
            name = ast.unparse(node.func)[6:]
            names = {keyword.arg for keyword in node.keywords}
            if None in names:  # keywords of the caller
                continue
            if (name in FLOATS and not {"dtype", "device"} <= names) or (name in OTHERS and "device" not in names):
                lines.append(node.lineno)
    return lines


def test_calls_without_dtype_or_device_are_found():
    assert unnamed("torch.zeros(3, dtype=d)\ntorch.arange(3)\ntorch.zeros(3, dtype=d, device=e)\nx.new_zeros(3)") == [
        1,
        2,
    ]


def test_every_new_tensor_has_a_dtype_and_a_device():
    """The samples and errors of ops are for tests; `load` and `convert` construct modules with plain defaults."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name, source = path.relative_to(PACKAGE).as_posix(), path.read_text()
        if name.startswith("ops/"):
            source = source.split("\ndef activation_samples")[0].split("\ndef samples")[0].split("\ndef clustered")[0]
        if name not in BUILT_BY_LOAD and (lines := unnamed(source)):
            found[name] = lines
    assert found == {}
