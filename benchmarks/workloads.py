# SPDX-License-Identifier: Apache-2.0
"""Workloads of the benchmarks: layers and edit grids of real StyleGANs. Inputs are the same on every machine.

Layers that are clustered have 512 channels at 16 x 16 or 32 x 32 (StyleGAN1 and 2). Layers on which M is measured
reach 64 x 512 x 512. A row of styles of StyleGAN2 at 1024 x 1024 holds 9,088 channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stylefast.ops import (
    ASSIGN,
    ASSIGN_CONTRIBUTION,
    ASSIGN_SOFT_CONTRIBUTION,
    BLEND,
    CONTRIBUTION,
    LLOYD_STEP,
    SOFT_CONTRIBUTION,
)
from stylefast.ops.op import Op

CLUSTERS = (8, 16, 32, 64, 128)
VARIED = (8, 32)
HALVES = (torch.bfloat16, torch.float16)
MAIN = (64, 512, 32)  # N, C, H = W: 134 MB
COARSE = (256, 512, 16)
LARGE = (4, 64, 512)  # with labels of 32 x 32
SMALL = (1, 512, 16)  # for the overhead of a call
STYLES = 9088
EDITS = (16, 256)  # targets, references: all pairs


@dataclass(frozen=True)
class Workload:
    """A named call of an op.

    `make` returns the op's arguments in the order of its schema. `peers` says whether peers run the workload, too.
    """

    op: Op
    name: str
    k: int | None
    make: Callable[[], dict[str, Any]]
    peers: bool = False

    @property
    def id(self) -> str:
        return f"{self.op.name} {self.name}".replace(" ", "-") + ("" if self.k is None else f"-K{self.k}")


def coherent(n: int, side: int, k: int, rng: torch.Generator) -> Tensor:
    """Return labels [N, H, W] int32 in smooth regions, as in real activations: the argmax of K random fields."""
    fields = (torch.randn(1, k, 8, 8, generator=rng) for _ in range(n))
    smooth = (F.interpolate(field, size=(side, side), mode="bilinear") for field in fields)
    return torch.cat([field.argmax(1) for field in smooth]).int()


def activations(n: int, c: int, side: int, k: int, dtype: torch.dtype, layout: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return activations around coherent clusters [N, C, H, W], unit centroids [K, C] and labels [N, H, W]."""
    rng = torch.Generator().manual_seed(k)
    centroids = F.normalize(torch.randn(k, c, generator=rng), dim=1)
    labels = coherent(n, side, k, rng)
    x = torch.randn(n, c, side, side, generator=rng).mul_(0.5)
    for image, label in zip(x, labels.long(), strict=True):
        image += 4 * centroids[label].movedim(2, 0)
    x = x.to(dtype)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "unaligned":
        shift = 4 // x.itemsize
        x = torch.empty(x.numel() + shift, dtype=dtype)[shift:].view(x.shape).copy_(x)
    return x, centroids, labels


def mixture(seed: int, n: int, side: int, directions: int) -> Tensor:
    """Return activations [N, 512, H, W] on which a whole fit is measured.

    The points vary in length. They lie around unit directions that share a component and differ in frequency.
    """
    c = MAIN[1]
    rng = torch.Generator().manual_seed(seed)
    common = 0.8 * torch.randn(1, c, generator=rng)
    unit = F.normalize(torch.randn(directions, c, generator=rng) + common, dim=1)  # [D, C]
    frequency = torch.rand(directions, generator=rng) + 0.05
    x = torch.empty(n, c, side, side)
    for image in x:
        points = unit[torch.multinomial(frequency, side * side, True, generator=rng)]  # [P, C]
        points = points + 1.5 / c**0.5 * torch.randn(points.shape, generator=rng)
        image[:] = (points * (0.5 + torch.rand(len(points), 1, generator=rng))).t().view(image.shape)
    return x


def clustered(
    op: Op, size: tuple[int, int, int], k: int, dtype: torch.dtype, layout: str, restarts: int = 1
) -> dict[str, Any]:
    """Return the arguments of an op that assigns labels. The K clusters are divided among the restarts."""
    x, centroids, _ = activations(*size, k, dtype, layout)
    if op is LLOYD_STEP:
        return {"activations": x, "centroids": centroids.view(restarts, k // restarts, -1), "features": "raw"}
    arguments = {"activations": x, "centroids": centroids, "features": "raw"}
    return arguments if op is ASSIGN else {**arguments, "standardize": True, "per_image": False}


def labelled(size: tuple[int, int, int], k: int, dtype: torch.dtype, layout: str) -> dict[str, Any]:
    """Return the arguments of contribution. The labels of a large layer are coarser than the layer."""
    x, _, labels = activations(*size, k, dtype, layout)
    labels = labels if size[2] <= 32 else coherent(size[0], 32, k, torch.Generator().manual_seed(k))
    return {
        "activations": x, "labels": labels, "n_clusters": k, "standardize": True, "resize": "bilinear",
        "per_image": False,
    }  # fmt: skip


def shared(size: tuple[int, int, int], k: int, grid: int) -> dict[str, Any]:
    """Return the arguments of soft_contribution, with memberships of sum 1 on a square grid of this side."""
    x, _, _ = activations(*size, k, torch.float32, "nchw")
    u = torch.randn(size[0], k, grid, grid, generator=torch.Generator().manual_seed(k)).softmax(1)
    return {"activations": x, "memberships": u, "standardize": True, "resize": "bilinear", "per_image": False}


def clustered_and_shared(size: tuple[int, int, int], k: int) -> dict[str, Any]:
    """Return the arguments of assign_soft_contribution, with memberships of the size of the layer."""
    x, centroids, _ = activations(*size, k, torch.float32, "nchw")
    u = shared(size, k, size[2])["memberships"]
    return {
        "activations": x, "centroids": centroids, "memberships": u, "features": "raw", "standardize": True,
        "per_image": False,
    }  # fmt: skip


def edited(gathered: bool, dtype: torch.dtype, grid: tuple[int, int] | None = None) -> dict[str, Any]:
    """Return the arguments of blend: every reference on every target, gathered by index or already in pairs."""
    targets, references = grid = grid or EDITS
    edits = torch.cartesian_prod(torch.arange(targets), torch.arange(references))  # [E, 2]
    edits = torch.cat([edits, torch.zeros(len(edits), 1, dtype=torch.int64)], 1)
    rng = torch.Generator().manual_seed(0)
    t, r = (torch.randn(rows, STYLES, generator=rng).to(dtype) for rows in grid)
    q = torch.rand(1, STYLES, generator=rng)
    if not gathered:
        t, r, edits = t[edits[:, 0]], r[edits[:, 1]], None
    return {"target": t, "reference": r, "query": q, "edits": edits, "strength": None}


def _layers(op: Op, size: tuple[int, int, int], name: str, make: Callable[..., dict[str, Any]]) -> Iterator[Workload]:
    """Yield workloads in float32 at every K, and in the other dtypes and layouts at two values of K."""
    for k in CLUSTERS:
        yield Workload(op, name, k, partial(make, size, k, torch.float32, "nchw"), peers=True)
    for k in VARIED:
        for dtype in HALVES:
            yield Workload(op, f"{name} {dtype}".replace("torch.", ""), k, partial(make, size, k, dtype, "nchw"))
        for layout in ("unaligned", "channels_last"):
            yield Workload(op, f"{name} {layout}", k, partial(make, size, k, torch.float32, layout))


def _workloads() -> Iterator[Workload]:
    main, coarse, large = ("x".join(map(str, (*size, size[2]))) for size in (MAIN, COARSE, LARGE))
    for op in (LLOYD_STEP, ASSIGN, ASSIGN_CONTRIBUTION):
        yield from _layers(op, MAIN, main, partial(clustered, op))
    yield Workload(LLOYD_STEP, coarse, 32, partial(clustered, LLOYD_STEP, COARSE, 32, torch.float32, "nchw"))
    restarts = partial(clustered, LLOYD_STEP, MAIN, 128, torch.float32, "nchw", 8)
    yield Workload(LLOYD_STEP, f"{main} 8 restarts of 16", 128, restarts)
    yield from _layers(CONTRIBUTION, MAIN, main, labelled)
    yield from _layers(CONTRIBUTION, LARGE, f"{large} from 32x32", labelled)
    for k in VARIED:
        for size, name, grid in ((MAIN, main, MAIN[2]), (MAIN, main, 16), (LARGE, large, 16)):
            name = name if grid == size[2] else f"{name} from {grid}x{grid}"
            yield Workload(SOFT_CONTRIBUTION, name, k, partial(shared, size, k, grid), peers=True)
        yield Workload(ASSIGN_SOFT_CONTRIBUTION, main, k, partial(clustered_and_shared, MAIN, k), peers=True)
    yield Workload(BLEND, "4096x9088 gathered", None, partial(edited, True, torch.float32), peers=True)
    yield Workload(BLEND, "4096x9088 pairs", None, partial(edited, False, torch.float32), peers=True)
    for dtype in HALVES:
        yield Workload(BLEND, f"4096x9088 pairs {dtype}".replace("torch.", ""), None, partial(edited, False, dtype))


def _small() -> Iterator[Workload]:
    name = f"1x512x16x16, {CLUSTERS[1]} clusters"
    for op in (LLOYD_STEP, ASSIGN, ASSIGN_CONTRIBUTION):
        yield Workload(op, name, None, partial(clustered, op, SMALL, CLUSTERS[1], torch.float32, "nchw"))
    yield Workload(CONTRIBUTION, name, None, partial(labelled, SMALL, CLUSTERS[1], torch.float32, "nchw"))
    yield Workload(BLEND, "1x9088", None, partial(edited, False, torch.float32, (1, 1)))


def _few_rows() -> Iterator[Workload]:
    for side in (1, 4, 8, 16):
        for name, gathered in (("gathered", True), ("pairs", False)):
            make = partial(edited, gathered, torch.float32, (side, side))
            yield Workload(BLEND, f"{side * side}x{STYLES} {name}", None, make)


WORKLOADS = tuple(_workloads())
SMALL_CALLS = tuple(_small())
FEW_ROWS = tuple(_few_rows())
