# SPDX-License-Identifier: Apache-2.0
"""The scikit-learn estimator on data frames, by a stand-in for their libraries, and on rows of extreme length."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.utils._set_output import ADAPTERS_MANAGER, ContainerAdapterProtocol

import stylefast
from stylefast.sklearn import SphericalKMeans

X = np.random.default_rng(0).normal(size=(80, 4))


class Frame:
    """Table with named columns that NumPy can convert, as frames of pandas and polars."""

    def __init__(self, values: np.ndarray, columns: list[str], index: np.ndarray) -> None:
        self.values, self.columns, self.index, self.shape = values, columns, index, values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.values.astype(dtype or self.values.dtype)


class Frames(ContainerAdapterProtocol):
    """Adapter that lets `set_output` make a `Frame`."""

    container_lib = "frames"

    def create_container(self, X_output: Any, X_original: Any, columns: Any, inplace: bool = True) -> Frame:
        columns = columns() if callable(columns) else columns
        return Frame(np.asarray(X_output), list(columns), X_original.index)

    def is_supported_container(self, X: Any) -> bool:
        return isinstance(X, Frame)

    def rename_columns(self, X: Frame, columns: Any) -> Frame:
        return Frame(X.values, list(columns), X.index)

    def hstack(self, Xs: Any) -> Frame:
        return Frame(np.hstack([x.values for x in Xs]), [name for x in Xs for name in x.columns], Xs[0].index)


@pytest.fixture
def frame(monkeypatch: pytest.MonkeyPatch) -> Frame:
    monkeypatch.setitem(ADAPTERS_MANAGER.adapters, "frames", Frames())
    return Frame(X, list("abcd"), np.arange(100, 180))


def test_frames_give_the_results_of_their_values(frame: Frame):
    expected, got = (SphericalKMeans(3, random_state=0).fit(data) for data in (X, frame))
    np.testing.assert_array_equal(got.labels_, expected.labels_)
    np.testing.assert_array_equal(got.predict(frame), expected.labels_)
    assert got.score(frame, sample_weight=frame.values[:, 0] ** 2) == expected.score(X, sample_weight=X[:, 0] ** 2)


def test_set_output_names_the_columns_and_keeps_the_index(frame: Frame):
    estimator = SphericalKMeans(3, random_state=0).set_output(transform="frames")  # type: ignore[arg-type]
    got = estimator.fit_transform(frame)
    assert isinstance(got, Frame) and got.columns == [f"sphericalkmeans{k}" for k in range(3)]
    np.testing.assert_array_equal(got.index, frame.index)
    np.testing.assert_array_equal(got.values, SphericalKMeans(3, random_state=0).fit(X).transform(X))
    columns = ColumnTransformer([("k", SphericalKMeans(3), [0, 1])]).fit(X).get_feature_names_out()
    assert list(columns) == [f"k__sphericalkmeans{k}" for k in range(3)]


@pytest.mark.parametrize("form", ["frame", "list", "integers"])
def test_initial_centers_may_be_any_array_like(form: str, frame: Frame):
    first = np.eye(3, 4)
    init: Any = {
        "frame": Frame(first, list("abcd"), np.arange(3)),
        "list": first.tolist(),
        "integers": first.astype(int),
    }
    got, expected = (SphericalKMeans(3, init=value).fit(X) for value in (init[form], first))
    np.testing.assert_array_equal(got.cluster_centers_, expected.cluster_centers_)


def test_frames_are_refused_by_name_where_arrays_are_expected(frame: Frame):
    fitted: Any = stylefast.SphericalKMeans(3).fit(X, progress=False)
    for call in (fitted.fit, fitted.partial_fit, fitted.predict, fitted.score):
        with pytest.raises(TypeError, match="activations must be .*, got Frame$"):
            call(frame)


@pytest.mark.parametrize("scale, dtype", [(1e25, np.float32), (1e-25, np.float32), (1e200, np.float64)])
def test_rows_whose_norm_leaves_the_dtype_are_refused(scale: float, dtype: type):
    rows = X.astype(dtype)
    rows[0] = 0
    fitted = SphericalKMeans(3, random_state=0).fit(rows)
    rows[[7, 9]] *= dtype(scale)
    for call in (SphericalKMeans(3).fit, fitted.transform):
        with pytest.raises(ValueError, match="got 2 of 80 rows with a norm that overflows or underflows, .* row 7$"):
            call(rows)
    if scale > 1:
        for call in (fitted.predict, fitted.score, stylefast.SphericalKMeans(3).fit):
            with pytest.raises(ValueError, match="got 2 of 80 points with .* norm that overflows, .* row 7$"):
                call(rows)


def test_norms_at_the_ends_of_the_range_are_accepted():
    rows = X.astype(np.float32)
    rows[::2] *= 2.0**62 / math.ceil(np.abs(X).max())
    rows[1::2] *= 2.0**-60
    expected, got = (SphericalKMeans(3, init=X[:3]).fit(data) for data in (X, rows))
    np.testing.assert_array_equal(got.labels_, expected.labels_)
    assert got.inertia_ == pytest.approx(expected.inertia_, rel=1e-4)
