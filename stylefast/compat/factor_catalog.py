# SPDX-License-Identifier: Apache-2.0
"""`FactorCatalog` and the heatmaps that it returns, with the signatures that existing code uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .. import kmeans
from ..core.checks import as_tensor, check_clusters, check_seed, to_tensor
from ..core.dtypes import Array

Size: TypeAlias = int | tuple[int, int]


class Heatmaps:
    """Maps of clusters or parts at any size, as returned by `FactorCatalog`; labels are stored, not one-hot maps.

    Args:
        labels: Integer labels of shape [N, h, w].
        parts: Ids of the clusters of every part.
    """

    def __init__(self, labels: Tensor, parts: Sequence[Sequence[int]]) -> None:
        self.labels: Tensor = labels
        self.parts: list[Tensor] = [torch.as_tensor(ids, dtype=labels.dtype, device=labels.device) for ids in parts]
        h, w = labels.shape[1:]
        self._label_size: Size = h if h == w else (h, w)
        self._maps: dict[Size, Tensor | None] = {self._label_size: None}  # computed on first use
        self._device: str | torch.device = labels.device

    def get(self, res: Size | None = None, make: bool = True) -> Tensor:
        """Return maps [N, P, H, W], float32 zeros and ones, resized by "nearest".

        Args:
            res: Size of the maps: (H, W), or H if both are equal. The default is the size of the labels.
            make: Whether to compute the maps if this size has not been made before.

        Returns:
            The maps.

        Raises:
            KeyError: If `make` is False and the size has not been made before.
        """
        res = self._label_size if res is None else res
        maps = self._maps.get(res) if make else self._maps[res]
        return (self.make(res) if maps is None else maps).to(self._device)

    def make(self, res: Size) -> Tensor:
        """Compute and store the maps [N, P, H, W] of a size, so that indexing with `res` returns them."""
        size = (res, res) if isinstance(res, int) else res
        labels = F.interpolate(self.labels[:, None].float(), size=size, mode="nearest").to(self.labels.dtype)
        self._maps[res] = maps = torch.cat([torch.isin(labels, ids) for ids in self.parts], 1).float()
        return maps

    def cuda(self) -> Heatmaps:
        """Make `get` and indexing return maps on the GPU."""
        self._device = "cuda"
        return self

    def cpu(self) -> Heatmaps:
        """Make `get` and indexing return maps on the CPU."""
        self._device = "cpu"
        return self

    def resolutions(self) -> Iterator[Size]:
        """Return an iterator over the sizes that have been made."""
        return iter(self._maps)

    def __getitem__(self, res: Size) -> Tensor:
        return self.get(res, make=False)

    def __contains__(self, res: object) -> bool:
        return res in self._maps

    def __len__(self) -> int:
        return len(self._maps)


class SphericalKMeans(kmeans.SphericalKMeans):
    """`stylefast.SphericalKMeans` whose centroids also have the name that scikit-learn gives them."""

    @property
    def cluster_centers_(self) -> np.ndarray:
        """Centroids of unit norm, [K, C]."""
        return to_tensor("centroids_", self.centroids_).cpu().numpy()


class FactorCatalog:
    """Clusters of a layer's activations, and the parts to which the user assigns them.

    The following points differ from the released code:

    - Activations may have any height and width, and may be on a GPU.
    - Repeated cluster ids count once.
    - The default clustering is `stylefast.SphericalKMeans` on all points instead of mini-batches, whose centers drift.
      The clusters therefore differ.
    - `labels` of the heatmaps holds labels instead of one-hot maps.

    Args:
        k: Number of clusters.
        random_state: Random seed.
        factorization: Class of another estimator that clusters rows, with scikit-learn's interface. It is called with
            `n_clusters`, `random_state` and `**kwargs`, and has `fit`, `labels_` and `predict`.
        **kwargs: Arguments of the clustering. Those of `stylefast.SphericalKMeans` are `n_init`, `init`, `max_iter`,
            `tol`, `features` and `backend`.

    Attributes:
        annotations: Ids of the clusters of each part, by the name of the part. It is empty at first. The user fills it.
        M: Input of `StyleInterpolator`: one tensor [P, C] per layer, the contributions of its channels to the parts, in
            the order of `annotations`. The user sets it as in the example.
        _factorization: The clustering. Its centroids are `cluster_centers_`, a NumPy array [K, C].

    References:
        Collins et al., "Editing in Style: Uncovering the Local Semantics of GANs", CVPR 2020, section 3.2.

    Example:
        >>> import stylefast
        >>> import torch
        >>> from stylefast.compat import FactorCatalog
        >>> layers = [torch.randn(2, 64, 8, 8), torch.randn(2, 32, 16, 16)]
        >>> catalog = FactorCatalog(18)
        >>> maps = catalog.fit_predict(layers[0], raw=True)
        >>> catalog.annotations = {"eyes": [3, 7], "nose": [5]}
        >>> rows = [stylefast.contribution(layer, maps.labels, 18) for layer in layers]  # [K, C] each
        >>> catalog.M = [torch.stack([m[ids].sum(0) for ids in catalog.annotations.values()]) for m in rows]
    """

    M: list[Tensor]

    def __init__(
        self, k: int, random_state: int = 0, factorization: Callable[..., Any] | None = None, **kwargs: Any
    ) -> None:
        self._factorization: Any
        if factorization is None:
            self._factorization = SphericalKMeans(k, seed=check_seed("random_state", random_state), **kwargs)
        else:
            self._factorization = factorization(n_clusters=k, random_state=random_state, **kwargs)
        self.annotations: dict[str, list[int]] = {}

    @property
    def k(self) -> int:
        """Number of clusters."""
        return self._factorization.n_clusters

    @property
    def kmeans(self) -> Any:
        """The clustering."""
        return self._factorization

    @classmethod
    def from_centroids(cls, centroids: Array, annotations: Mapping[str, Sequence[int]], **kwargs: Any) -> FactorCatalog:
        """Make a catalog from known centroids [K, C], such as the centroids of an old catalog."""
        catalog = cls(len(centroids), **kwargs)
        catalog._factorization.centroids_ = F.normalize(as_tensor("centroids", centroids, "[K, C]", 2), dim=1)
        catalog.annotations = {part: list(ids) for part, ids in annotations.items()}
        return catalog

    def fit_predict(self, X: Array, raw: bool = False) -> Heatmaps | tuple[Heatmaps, list[str]]:
        """Cluster activations and return their heatmaps.

        Args:
            X: Activations of shape [N, C, H, W].
            raw: Whether to return heatmaps of clusters instead of heatmaps of parts.

        Returns:
            Heatmaps of clusters if `raw` is True, else a tuple of the heatmaps and the names of the parts.

        Raises:
            TypeError: As in `stylefast.SphericalKMeans.fit`.
            ValueError: As in `stylefast.SphericalKMeans.fit`. Unless `raw` is True, also if there are no parts, or a
                cluster of a part is outside [0, k).
        """
        parts, x = self._parts(raw), as_tensor("X", X, "[N, C, H, W]", 4)
        self._factorization.fit(self._points(x))
        return self._heatmaps(self._factorization.labels_, x, raw, parts)

    def predict(self, X: Array, raw: bool = False) -> Heatmaps | tuple[Heatmaps, list[str]]:
        """Return heatmaps of other activations for the current centroids, in the form that `fit_predict` returns."""
        parts, x = self._parts(raw), as_tensor("X", X, "[N, C, H, W]", 4)
        return self._heatmaps(self._factorization.predict(self._points(x)), x, raw, parts)

    def _points(self, x: Tensor) -> Any:
        """Return x itself, or the NumPy rows `[N * H * W, C]` that other clusterings take."""
        if isinstance(self._factorization, kmeans.SphericalKMeans):
            return x
        return x.movedim(1, -1).reshape(-1, x.shape[1]).cpu().numpy()

    def _parts(self, raw: bool) -> list[Sequence[int]]:
        if raw:
            return [[cluster] for cluster in range(self.k)]
        if not self.annotations:
            raise ValueError("annotations must name parts, got none: name them, or ask for clusters with raw=True")
        check_clusters("annotations", self.annotations, self.k)
        return list(self.annotations.values())

    def _heatmaps(
        self, labels: Any, x: Tensor, raw: bool, parts: list[Sequence[int]]
    ) -> Heatmaps | tuple[Heatmaps, list[str]]:
        maps = Heatmaps(to_tensor("labels", labels).to(x.device).view(len(x), *x.shape[2:]), parts)
        return maps if raw else (maps, list(self.annotations))

    def __repr__(self) -> str:
        return f"FactorCatalog({self.k}, {type(self._factorization).__name__}, {self.annotations})"
