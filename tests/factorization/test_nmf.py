# SPDX-License-Identifier: Apache-2.0
"""Non-negative factorisation compared with hand computations, SciPy and scikit-learn, and laws of every fit."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from cells import run_op
from scipy.optimize import nnls
from sklearn.decomposition import NMF as SklearnNMF
from torch import Tensor

from stylefast import NMF
from stylefast.ops import NMF_STEP
from stylefast.ops.nmf_step import nmf_step


def nonnegative(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixed(k: int = 3, noise: float = 0.05) -> tuple[Tensor, Tensor]:
    """Activations [4, 12, 10, 11] that are mixtures of k sparse components, and the components [k, 12]."""
    components = nonnegative(k, 12) * (nonnegative(k, 12, seed=1) > 0.5)
    weights = nonnegative(4, k, 10, 11, seed=2) * (nonnegative(4, k, 10, 11, seed=3) > 0.4)
    x = torch.einsum("nkhw,kc->nchw", weights, components)
    return (x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=x.dtype)).float(), (
        components.float()
    )


def relative_error(model: NMF, x: Tensor) -> float:
    """Squared error of the memberships of `transform`, relative to the squared norm of the rectified data."""
    points = x.clamp(min=0).double()
    u, h = torch.as_tensor(model.transform(x)).double(), torch.as_tensor(model.components_).double()
    return float((points - torch.einsum("nkhw,kc->nchw", u, h)).square().sum() / points.square().sum())


def test_memberships_of_orthogonal_components_by_hand():
    x = torch.tensor([[3.0, 4.0, -7.0]]).reshape(1, 3, 1, 1)
    components = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 5.0], [0.0, 0.0, 0.0]])
    step = nmf_step(x, components, 1)
    assert step.memberships.flatten().tolist() == [1.5, 4.0, 0.0, 0.0]  # the rectified third channel is 0
    assert step.products.tolist() == [[4.5, 6.0, 0.0], [12.0, 16.0, 0.0], [0.0] * 3, [0.0] * 3]
    assert step.gram[:2, :2].tolist() == [[2.25, 6.0], [6.0, 16.0]] and step.gram[2:].count_nonzero() == 0
    assert float(step.energy) == 25.0


@pytest.mark.parametrize("backend", NMF_STEP.backends)
def test_memberships_solve_nonnegative_least_squares(backend: str):
    x, components = mixed()
    components = torch.cat([components, nonnegative(2, 12, seed=9).float()])
    u, products, gram, energy = run_op(
        NMF_STEP, backend, {"activations": x.double(), "components": components.double(), "sweeps": 400}
    )
    for n, h, w in ((0, 0, 0), (1, 9, 10), (3, 4, 7)):
        expected, _ = nnls(components.T.double().numpy(), x[n, :, h, w].double().clamp(min=0).numpy())
        np.testing.assert_allclose(u[n, :, h, w].numpy(), expected, atol=1e-7)
    rows, points = u.movedim(1, -1).flatten(0, 2), x.double().clamp(min=0).movedim(1, -1).flatten(0, 2)
    torch.testing.assert_close(products, rows.T @ points)
    torch.testing.assert_close(gram, rows.T @ rows)
    torch.testing.assert_close(energy, points.square().sum())


@pytest.mark.parametrize("k", [1, 3, 5])
def test_fit_reaches_the_error_of_scikit_learn(k: int):
    x, _ = mixed(k)
    rows = x.clamp(min=0).movedim(1, -1).flatten(0, 2).numpy()
    model = NMF(k, tol=1e-8, max_iter=1000).fit(x, progress=False)
    for solver in ("cd", "mu"):
        peer = SklearnNMF(k, solver=solver, init="nndsvda", tol=1e-6, max_iter=3000).fit(rows)
        expected = peer.reconstruction_err_**2 / float((rows.astype(np.float64) ** 2).sum())
        assert relative_error(model, x) <= 1.01 * expected
    assert model.error_ == pytest.approx(relative_error(model, x), rel=0.01)


def test_one_component_is_the_leading_singular_vector():
    x = nonnegative(2, 6, 5, 5)
    model = NMF(1, tol=0, max_iter=50).fit(x, progress=False)
    rows = x.movedim(1, -1).flatten(0, 2)
    torch.testing.assert_close(model.components_[0], torch.linalg.svd(rows).Vh[0].abs(), atol=1e-6, rtol=0)


def test_components_of_separable_mixtures_are_recovered():
    components = torch.block_diag(*(nonnegative(1, 4, seed=k) + 0.1 for k in range(3)))  # [3, 12]
    x = torch.einsum("nkhw,kc->nchw", nonnegative(2, 3, 9, 9), components)
    model = NMF(3, tol=0, max_iter=200).fit(x, progress=False)
    assert relative_error(model, x) < 1e-5
    cosines = model.components_ @ torch.nn.functional.normalize(components, dim=1).T
    assert sorted(cosines.argmax(1).tolist()) == [0, 1, 2]
    torch.testing.assert_close(cosines.amax(1), torch.ones(3, dtype=x.dtype), atol=1e-3, rtol=0)


def test_a_stream_gives_the_bits_of_its_array():
    x, _ = mixed()
    x = x.repeat(12, 1, 1, 1)  # three mini-batches of 18 images
    array = NMF(3, max_iter=4).fit(x, progress=False)
    stream = NMF(3, max_iter=4).fit(list(x.split(2048 // 110)), progress=False)
    assert torch.equal(array.components_, stream.components_) and array.error_ == stream.error_


def test_further_epochs_reduce_the_error():
    x, _ = mixed()
    errors = [relative_error(NMF(4, tol=0, max_iter=n).fit(x, progress=False), x) for n in (1, 3, 9, 27)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.9 * errors[0]


def test_negative_activations_count_as_zero():
    x, _ = mixed()
    first, second = (NMF(3, max_iter=3).fit(data, progress=False) for data in (x, x.clamp(min=0)))
    assert torch.equal(first.components_, second.components_)


def test_scaled_data_have_the_same_components():
    x, _ = mixed()
    first, second = (NMF(3, max_iter=5).fit(data, progress=False) for data in (x, 1024 * x))
    torch.testing.assert_close(first.components_, second.components_)
    torch.testing.assert_close(second.transform(1024 * x), 1024 * first.transform(x), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("exponent", [-60, 60])
def test_data_in_the_range_of_their_squares_have_the_same_components(exponent: int):
    x, _ = mixed()
    first, second = (NMF(3, max_iter=5).fit(data, progress=False) for data in (x, x * 2.0**exponent))
    torch.testing.assert_close(first.components_, second.components_)
    assert second.error_ == pytest.approx(first.error_, rel=1e-4)


@pytest.mark.parametrize(
    "scale, dtype",
    [
        *((scale, dtype) for scale in (1e19, 1e-20, 1e-30) for dtype in (torch.float32, torch.bfloat16)),
        *((scale, torch.float64) for scale in (1e160, 1e-160)),
    ],
)
def test_squares_outside_of_the_range_are_refused(scale: float, dtype: torch.dtype):
    x = (mixed()[0].double() * scale).to(dtype)
    working = "float64" if dtype == torch.float64 else "float32"
    expected = f"sums of squares that {working} holds, got values up to {x.max().item():g}: multiply all by"
    with pytest.raises(ValueError, match=re.escape(f"activations must have {expected} the same factor")):
        NMF(3).fit(x, progress=False)


def test_rows_are_points_like_positions():
    x, _ = mixed()
    rows = x.movedim(1, -1).flatten(0, 2)
    model = NMF(3).fit(rows, progress=False)
    expected = model.transform(x).movedim(1, -1).flatten(0, 2)
    torch.testing.assert_close(model.transform(rows), expected)
    assert model.transform(rows[:0]).shape == (0, 3)


@pytest.mark.parametrize("kind", ["array", "float64", "bfloat16"])
def test_results_have_the_kind_of_the_data(kind: str):
    x, _ = mixed()
    data = {"array": x.numpy(), "float64": x.double(), "bfloat16": x.bfloat16()}[kind]
    model = NMF(3, max_iter=3).fit(data, progress=False)
    results = (model.components_, model.transform(data))
    if kind == "array":
        assert all(isinstance(result, np.ndarray) and result.dtype == np.float32 for result in results)
    else:
        expected = torch.float64 if kind == "float64" else torch.float32
        assert all(isinstance(result, Tensor) and result.dtype == expected for result in results)


def test_data_without_energy_have_no_memberships():
    model = NMF(2).fit(-torch.ones(1, 3, 2, 2), progress=False)
    assert model.error_ == 0 and model.transform(-torch.ones(1, 3, 2, 2)).count_nonzero() == 0


def test_bad_arguments_are_refused():
    x = torch.rand(2, 4, 3, 3)
    with pytest.raises(ValueError, match="n_components must be at most C = 4, got 5"):
        NMF(5).fit(x)
    with pytest.raises(ValueError, match="n_components must be an integer >= 1, got 0"):
        NMF(0)
    with pytest.raises(ValueError, match="tol must be a finite number >= 0, got nan"):
        NMF(2, tol=float("nan"))
    with pytest.raises(ValueError, match="activations must have points"):
        NMF(2).fit(x[:0])
    with pytest.raises(ValueError, match=r"equally many channels, got C in \[3, 4\]"):
        NMF(2).fit([x, x[:, :3]])
    with pytest.raises(TypeError, match="can be read only once"):
        NMF(2).fit(iter([x]))
    with pytest.raises(RuntimeError, match="call fit first"):
        NMF(2).transform(x)
    x[1, 2, 0, 1] = torch.inf
    x[1, 3, 0, 1] = x[1, 0, 2, 2] = torch.nan
    with pytest.raises(ValueError, match=r"got NaN or Inf in 2 points, first at image \[1, 0, 1\]"):
        NMF(2).fit(x)
    with pytest.raises(ValueError, match="must be finite, got NaN or Inf in 2 points"):
        NMF(2).fit(x.nan_to_num(0, 0, 0)).transform(x)
