# SPDX-License-Identifier: Apache-2.0
"""A build waits for a GPU at most once per batch, however many sites there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from catalogs import K, build_catalog
from host_waits import GPUS, move, simulated_gpu
from mixtures import directions

from stylefast import Catalog
from stylefast.generators import Generator
from stylefast.generators.toy import RULES, WIDTH, toy

N = 6
CENTROIDS = directions(K, 24).float()  # of known clusters, so that k-means is not run


def half_toy() -> Generator:
    """The toy network with all layers in float16."""
    network = cast(Any, toy("sg2").network.half())
    calls = {"mapping": network.mapping, "synthesis": network}
    return Generator(network, RULES["sg2"], name="half", z_dim=WIDTH, check=False, **calls)


def build(gpu: Any, batch_size: int, dtype: str = "float32", workdir: Any = None, **options: Any) -> Catalog:
    generator = half_toy() if options.pop("half", False) else toy("sg2")
    w = generator.latents(range(N))
    options = {"centroids": gpu.put(CENTROIDS), "n_clusters": K, "shard_images": 3, "workdir": workdir, **options}
    moved = move(generator, gpu)
    return build_catalog(moved, gpu.put(w), batch_size=batch_size, dtype=dtype, backend=gpu.backend, **options)


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize("half, dtype, stages", [(False, "float32", 1), (False, "bfloat16", 2), (True, "float32", 1)])
def test_a_build_waits_at_most_once_per_batch(device: Callable[[], Any], half: bool, dtype: str, stages: int):
    waits = []
    with device() as gpu:
        for batch_size in (1, 1, 3):  # the first build may load kernels
            before = len(gpu.waits)
            build(gpu, batch_size, dtype, half=half)
            waits.append(len(gpu.waits) - before)
    assert waits[1] - waits[2] <= (N - 2) * stages  # 6 batches of one image, 2 batches of three
    assert waits[2] <= 2 * stages + 10  # per batch, per shard and per build


def test_a_simulated_gpu_gives_the_catalog_of_the_cpu():
    generator = toy("sg2")
    w = generator.latents(range(N))
    options = {"n_clusters": K, "batch_size": 2, "n_init": 2, "backend": "reference"}
    expected = build_catalog(generator, w, **options)
    with simulated_gpu() as gpu:
        catalog = build(gpu, 2, centroids=None, n_init=2)
    torch.testing.assert_close(catalog.contributions, expected.contributions)
    torch.testing.assert_close(catalog.centroids, expected.centroids)
    assert torch.equal(catalog.occupancy, expected.occupancy)


def test_a_gpu_reports_activations_that_are_not_finite():
    with simulated_gpu() as gpu:
        generator = toy("sg2")
        w = generator.latents(range(N))
        w[4, -2:] = float("nan")
        message = r"site torgbs.3 must be finite, got NaN or Inf in the batch of images 4 to 5$"
        with pytest.raises(ValueError, match=message):
            build_catalog(
                move(generator, gpu), gpu.put(w), batch_size=2, centroids=gpu.put(CENTROIDS), backend=gpu.backend
            )
