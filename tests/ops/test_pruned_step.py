# SPDX-License-Identifier: Apache-2.0
"""pruned_step gives the labels of lloyd_step, and the same bits with and without a former step."""

from __future__ import annotations

import pytest
import torch
from agreement import agree
from cells import bits, run_op, skip_unless
from torch import Tensor
from torch.nn.functional import normalize

from stylefast import lloyd_step
from stylefast.ops import PRUNED_STEP
from stylefast.ops.assign import clustered
from stylefast.ops.op import BadCall
from stylefast.ops.pruned_step import PrunedStep, from_labels, movements, pruned_step

pytestmark = skip_unless("cpu")
SAMPLES = dict(PRUNED_STEP.samples())
FORMS = ("float32", "bfloat16", "float16", "channels_last", "rows", "standardized", "squared")


def data(form: str, n: int = 3, c: int = 40, side: int = 14, k: int = 7) -> tuple[Tensor, str]:
    """Activations with a zero point per image in one form, and their features."""
    x, _ = clustered(n, c, side, side + 1, k, torch.float64)
    features = form if form in ("standardized", "squared") else "raw"
    if form == "channels_last":
        return x.float().contiguous(memory_format=torch.channels_last), features
    if form == "rows":
        return x.float().movedim(1, -1).reshape(-1, c).contiguous().t()[None, :, :, None], features
    return x.to(getattr(torch, form, torch.float32)), features


def restarts(b: int, k: int, c: int, dtype: torch.dtype, seed: int = 3) -> Tensor:
    """Random unit centroids, [B, K, C]."""
    rng = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(b, k, c, generator=rng, dtype=torch.float64), dim=2).to(dtype)


def updated(step: PrunedStep, centroids: Tensor) -> Tensor:
    return torch.where(step.counts[..., None] > 0, normalize(step.sums, dim=2).float(), centroids)


def steps(x: Tensor, centroids: Tensor, features: str, count: int = 8) -> Tensor:
    """Run Lloyd iterations with pruning, compare each with lloyd_step, and return which points were kept last."""
    former = None
    for _ in range(count):
        got = pruned_step(x, centroids, former, features=features, backend="cpu")
        assert_same(got, x, centroids, features)
        last = None if former is None else kept(got, centroids, *former)
        former, centroids = (got, centroids), updated(got, centroids)
    assert last is not None
    return last


def assert_same(got: PrunedStep, x: Tensor, centroids: Tensor, features: str) -> None:
    expected = lloyd_step(x, centroids, features=features, backend="cpu")
    anew = pruned_step(x, centroids, features=features, backend="cpu")
    for name in ("labels", "sums", "counts", "objective"):
        assert torch.equal(bits(getattr(got, name)), bits(getattr(anew, name))), name
    assert torch.equal(got.labels, expected.labels) and torch.equal(got.counts, expected.counts)
    torch.testing.assert_close(got.sums.float(), expected.sums, rtol=0, atol=1e-6 * float(expected.counts.max()))
    torch.testing.assert_close(got.objective, expected.objective, rtol=0, atol=2e-7)
    assert_bounds_hold(got, x, centroids, features)


def assert_bounds_hold(got: PrunedStep, x: Tensor, centroids: Tensor, features: str) -> None:
    """Bounds hold for the cosines in float64, up to rounding errors."""
    exact = from_labels(got.labels, x.double(), centroids.double(), features)[0]
    (lower, upper), (own, others) = got.bounds.double(), exact
    counts = own != 0
    assert (lower <= own + 1e-6)[counts & upper.isfinite()].all() and (others <= upper + 1e-6)[counts].all()


def kept(got: PrunedStep, centroids: Tensor, former: PrunedStep, former_centroids: Tensor) -> Tensor:
    """Which points were not scored: their upper bounds are the former ones plus the movement, [B, N, H, W]."""
    _, others = movements(centroids, former_centroids)
    moved = others.gather(1, former.labels.flatten(1).long()).view(former.labels.shape)
    return got.bounds[1] == former.bounds[1] + moved


@pytest.mark.parametrize("backend", PRUNED_STEP.backends)
@pytest.mark.parametrize("name", SAMPLES)
def test_first_step_agrees_with_the_reference(name: str, backend: str):
    agree(PRUNED_STEP, run_op(PRUNED_STEP, backend, SAMPLES[name]), SAMPLES[name])


@pytest.mark.parametrize("backend", PRUNED_STEP.backends)
def test_passes_opcheck(backend: str):
    x, centroids = clustered(2, 9, 5, 7, 4, torch.float32)
    nothing = (None,) * 5
    step = PRUNED_STEP.cells[backend](x, centroids[None], "raw", *nothing)
    for former in (nothing, (*step[:4], torch.full((2, 1, 4), 0.1))):
        torch.library.opcheck(PRUNED_STEP.cells[backend], (x, centroids[None], "raw", *former))


@pytest.mark.parametrize("k", [1, 2, 7, 33])
@pytest.mark.parametrize("form", FORMS)
def test_iterations_have_the_labels_of_lloyd_step(form: str, k: int):
    x, features = data(form)
    steps(x, restarts(3, k, 40, torch.float32), features)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("k", "moving"), [(9, 0.5), (70, 0.2)])
def test_random_movements_keep_the_bits(k: int, moving: float, seed: int, threads: int):
    rng = torch.Generator().manual_seed(seed)
    x, _ = clustered(4, 33, 16, 17, 9, torch.float32, seed)
    centroids, former = restarts(2, k, 33, torch.float32, seed), None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for size in (0.0, 0.001, 0.01, 0.1, 1.0, 0.0, 0.03):
            got = pruned_step(x, centroids, former, backend="cpu")
            assert_same(got, x, centroids, "raw")
            former = (got, centroids)
            some = torch.rand(2, k, 1, generator=rng) < moving
            centroids = normalize(centroids + some * size * torch.randn(centroids.shape, generator=rng), dim=2)
    finally:
        torch.set_num_threads(before)


def test_most_points_keep_their_label_unscored():
    x, _ = clustered(4, 64, 16, 16, 6, torch.float32)
    assert steps(x, restarts(2, 6, 64, torch.float32), "raw", 12).double().mean() > 0.6


@pytest.mark.parametrize("kind", ["ties", "duplicates", "narrow", "tiny", "huge", "all zero"])
def test_points_without_a_gap_keep_the_bits(kind: str):
    x, _ = clustered(3, 24, 12, 12, 5, torch.float32)
    centroids = restarts(2, 5, 24, torch.float32)
    if kind == "ties":  # small integers: all scores are exact
        x, centroids = x.mul(2).round(), torch.eye(24)[:5].repeat(2, 1, 1)
    if kind == "duplicates":
        centroids = centroids[:, [0, 1, 1, 0, 2]]
    if kind == "narrow":
        x = x + 1000
        centroids = normalize(x.movedim(1, -1).reshape(-1, 24)[torch.arange(10) * 7 + 2], dim=1).view(2, 5, 24)
    steps(x * {"tiny": 1e-20, "huge": 1e17, "all zero": 0.0}.get(kind, 1.0), centroids, "raw")


def test_relocated_centroids_keep_the_bits():
    x, _ = clustered(3, 24, 12, 12, 5, torch.float32)
    centroids = restarts(1, 5, 24, torch.float32)
    got = pruned_step(x, centroids, backend="cpu")
    moved = centroids.clone()
    moved[0, 3] = normalize(x[1, :, 4, 5], dim=0)
    assert_same(pruned_step(x, moved, (got, centroids), backend="cpu"), x, moved, "raw")


def test_a_bound_that_is_too_low_is_noticed():
    x, _ = clustered(3, 24, 12, 12, 5, torch.float32)
    centroids, other = restarts(2, 5, 24, torch.float32)
    got = pruned_step(x, centroids[None], backend="cpu")
    for fault in (0.0, 2.0):
        bounds = got.bounds + torch.tensor([fault, -fault]).view(2, 1, 1, 1, 1)
        step = pruned_step(x, other[None], (got._replace(bounds=bounds), centroids[None]), backend="cpu")
        if fault == 0:
            assert_same(step, x, other[None], "raw")
        else:
            with pytest.raises(AssertionError, match="labels"):
                assert_same(step, x, other[None], "raw")


@pytest.mark.parametrize("bad", list(PRUNED_STEP.errors()), ids=lambda bad: bad.match)
def test_bad_arguments_are_refused(bad: BadCall):
    with pytest.raises(bad.error, match=bad.match):
        pruned_step(*bad.args, **bad.kwargs)
