# SPDX-License-Identifier: Apache-2.0
"""The two classes that code written for "Editing in Style" calls, with their signatures, on this package's kernels.

Where results differ from the released code's, the docstrings say how.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kmeans import SphericalKMeans
from .interpolator import StyleInterpolator

__all__ = ["FactorCatalog", "Heatmaps", "StyleInterpolator"]


class Heatmaps:
    """Where clusters or parts are, at any size: what `FactorCatalog` gives. Labels are kept, their one-hot is not.

    Args:
        labels: clusters [N, h, w].
        parts: the cluster ids of every part.
    """

    def __init__(self, labels: Tensor, parts: Sequence[Sequence[int]]) -> None:
        self.labels = labels
        self.parts = [torch.as_tensor(ids, dtype=labels.dtype, device=labels.device) for ids in parts]
        h, w = labels.shape[1:]
        self._own: int | tuple[int, int] = h if h == w else (h, w)
        self._sizes: dict[int | tuple[int, int], Tensor | None] = {self._own: None}  # made when it is asked for
        self._device: str | torch.device = labels.device

    def get(self, res: int | tuple[int, int] | None = None, make: bool = True) -> Tensor:
        """[N, P, H, W] float32 of zeros and ones, resized as nearest neighbours are; `res` is H and W, or both.

        Raises: KeyError if `make` is False and the size was not made before.
        """
        res = self._own if res is None else res
        maps = self._sizes.get(res) if make else self._sizes[res]
        return (self.make(res) if maps is None else maps).to(self._device)

    def make(self, res: int | tuple[int, int]) -> Tensor:
        """Makes a size, for `[res]` to find: [N, P, H, W]."""
        size = (res, res) if isinstance(res, int) else res
        labels = F.interpolate(self.labels[:, None].float(), size=size, mode="nearest").to(self.labels.dtype)
        self._sizes[res] = maps = torch.cat([torch.isin(labels, ids) for ids in self.parts], 1).float()
        return maps

    def cuda(self) -> Heatmaps:
        """Sizes are given on the GPU from now on."""
        self._device = "cuda"
        return self

    def cpu(self) -> Heatmaps:
        """Sizes are given on the CPU from now on."""
        self._device = "cpu"
        return self

    def resolutions(self) -> Iterator[int | tuple[int, int]]:
        """The sizes that were made."""
        return iter(self._sizes)

    def __getitem__(self, res: int | tuple[int, int]) -> Tensor:
        return self.get(res, make=False)

    def __contains__(self, res: object) -> bool:
        return res in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)


class FactorCatalog:
    """Clusters of a layer's activations and the names that people give them.

    Differences: activations may have any height and width, and be on a GPU; cluster ids that repeat count once; the
    default clustering is `stylefast.SphericalKMeans` on all points, not mini-batches whose centers drift when they are
    continued, so that clusters are other ones; `labels` of the heatmaps are its labels, without a one-hot.

    Args:
        k: number of clusters.
        random_state: seed.
        factorization: makes another clustering of rows, as scikit-learn's are made: called with n_clusters,
            random_state and **kwargs; has `fit`, `labels_` and `predict`.
        **kwargs: of the clustering: of `stylefast.SphericalKMeans` n_init, init, max_iter, tol, features, backend.

    Attributes:
        annotations: part -> cluster ids; empty at first, for people to fill.
        M: for `StyleInterpolator`: of every layer, the contribution [P, C] of its channels to the parts, in the order
            of `annotations`. The caller sets it:

    Example:
        >>> catalog = FactorCatalog(18)
        >>> maps = catalog.fit_predict(activations, raw=True)
        >>> catalog.annotations = {"eyes": [3, 7], "nose": [5]}
        >>> rows = [stylefast.contribution(layer, maps.labels, 18) for layer in layers]  # [K, C] each
        >>> catalog.M = [torch.stack([m[ids].sum(0) for ids in catalog.annotations.values()]) for m in rows]

    Source: "Editing in Style" (Collins et al., CVPR 2020), section 3.2.
    """

    M: list[Tensor]

    def __init__(self, k: int, random_state: int = 0, factorization: Any = None, **kwargs: Any) -> None:
        self.kmeans: Any
        if factorization is None:
            self.kmeans = SphericalKMeans(k, seed=random_state, **kwargs)
        else:
            self.kmeans = factorization(n_clusters=k, random_state=random_state, **kwargs)
        self.k = k
        self.annotations: dict[str, list[int]] = {}

    @classmethod
    def of(cls, centroids: Tensor, annotations: Mapping[str, Sequence[int]], **kwargs: Any) -> FactorCatalog:
        """A catalog of known centroids [K, C], such as an old one's."""
        catalog = cls(len(centroids), **kwargs)
        catalog.kmeans.centroids_ = F.normalize(centroids, dim=1)
        catalog.annotations = {part: list(ids) for part, ids in annotations.items()}
        return catalog

    def fit_predict(self, X: Tensor, raw: bool = False) -> Heatmaps | tuple[Heatmaps, list[str]]:
        """Cluster activations X [N, C, H, W]: heatmaps of clusters if `raw`, else of the parts, and their names.

        Raises: TypeError, ValueError as `stylefast.SphericalKMeans.fit`; ValueError if there are no parts, or they name
            clusters outside [0, k).
        """
        parts = self._parts(raw)
        self.kmeans.fit(self._points(X))
        return self._heatmaps(self.kmeans.labels_, X, raw, parts)

    def predict(self, X: Tensor, raw: bool = False) -> Heatmaps | tuple[Heatmaps, list[str]]:
        """The same of other activations, by the centroids that there are."""
        parts = self._parts(raw)
        return self._heatmaps(self.kmeans.predict(self._points(X)), X, raw, parts)

    def _points(self, X: Tensor) -> Any:
        """X itself, or the rows [N * H * W, C] that other clusterings take, in NumPy."""
        if isinstance(self.kmeans, SphericalKMeans):
            return X
        return X.movedim(1, -1).reshape(-1, X.shape[1]).cpu().numpy()

    def _parts(self, raw: bool) -> list[Sequence[int]]:
        if raw:
            return [[cluster] for cluster in range(self.k)]
        if not self.annotations:
            raise ValueError("annotations must name parts, got none: name them, or ask for clusters with raw=True")
        for part, ids in self.annotations.items():
            if not all(0 <= cluster < self.k for cluster in ids):
                raise ValueError(f"annotations must be clusters in [0, {self.k}), got {part!r}: {ids}")
        return list(self.annotations.values())

    def _heatmaps(
        self, labels: Any, X: Tensor, raw: bool, parts: list[Sequence[int]]
    ) -> Heatmaps | tuple[Heatmaps, list[str]]:
        maps = Heatmaps(torch.as_tensor(labels, device=X.device).view(len(X), *X.shape[2:]), parts)
        return maps if raw else (maps, list(self.annotations))

    def __repr__(self) -> str:
        return f"FactorCatalog({self.k}, {type(self.kmeans).__name__}, {self.annotations})"
