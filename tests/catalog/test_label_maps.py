# SPDX-License-Identifier: Apache-2.0
"""Labels at other sizes than the layer's: compared with an interpolation of the points, and special points."""

import pytest
import torch
from catalogs import N, build
from networks import shared
from torch.nn import functional as F

from stylefast.catalog.label_maps import smooth_labels
from stylefast.generators.toy import toy
from stylefast.ops.assign import points


@pytest.mark.parametrize("kind, features", [("sg1", "raw"), ("sg2", "standardized"), ("sg3", "squared")])
@pytest.mark.parametrize("size", [(48, 48), (37, 64), (5, 3)])
def test_smooth_labels_are_those_of_interpolated_points(kind, features, size):
    generator = shared(kind)
    catalog = build(generator, features=features)
    w = generator.latents(range(N))
    (activations,) = generator.activations(w, [catalog.layer]).values()
    x = F.interpolate(points(activations.double(), features), size=size, mode="bilinear", align_corners=False)
    scores = torch.einsum("nchw,kc->nkhw", F.normalize(x, dim=1), catalog.centroids.double())
    labels = catalog.labels(generator, w, size=size)
    assert labels.shape == (N, *size) and labels.dtype == torch.int32 and len(labels.unique()) > 1
    chosen = scores.gather(1, labels[:, None].long())[:, 0]
    assert (scores.amax(1) - chosen).max() < 1e-5  # labels may differ where two scores are equal up to rounding
    assert (labels == scores.argmax(1)).float().mean() > 0.999


def test_labels_at_the_size_of_the_layer_are_those_of_assign():
    generator = shared("sg2")
    catalog, w = build(generator), generator.latents(range(N))
    plain = catalog.labels(generator, w)
    assert torch.equal(catalog.labels(generator, w, size=(plain.shape[1], plain.shape[2])), plain)


def test_special_points_of_smooth_labels_have_label_0():
    centroids = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    x = torch.zeros(1, 2, 1, 6)
    x[0, 0] = torch.tensor([1.0, 1.0, 0.0, 0.0, torch.inf, torch.nan])
    labels = smooth_labels(x, centroids, "raw", (1, 12))[0, 0].tolist()
    assert labels[:5] == [1] * 5  # clusters 1 and 2 tie
    assert labels[6:] == [0] * 6  # zero, infinite, NaN


def test_a_size_that_is_not_two_positive_integers_is_refused():
    generator = toy("sg2")
    catalog, w = build(generator), generator.latents([0])
    with pytest.raises(ValueError, match=r"size must be \(H, W\), got \(4,\)"):
        catalog.labels(generator, w, size=(4,))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"size\[1\] must be an integer >= 1, got 0"):
        catalog.labels(generator, w, size=(4, 0))
