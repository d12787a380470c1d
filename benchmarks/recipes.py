# SPDX-License-Identifier: Apache-2.0
"""Recipes: five common pieces of code without the package (before) and with it (after), as text.

bench_recipes.py runs the code, and docs/guides/drop_in.md shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from timing import WrongResult
from torch import Tensor
from torch.nn.functional import normalize
from workloads import mixture

from stylefast import assign
from stylefast.ops.assign import clustered

Names = dict[str, Any]
WIDTHS = [512] * 15 + [256] * 3 + [128] * 3 + [64] * 3 + [32] * 2  # channels of StyleGAN2's styles at 1024 x 1024
TOLERANCE = 1e-3  # relative to the largest value


@dataclass(frozen=True)
class Recipe:
    """Code without the package (before) and with it (after).

    Attributes:
        title: Title in the documentation. It is also the name of the recipe in records.
        images: Number of images on which the recipe is timed.
        inputs: Description of the inputs in the documentation, which follows the number of images.
        before: Code without the package.
        after: Code with the package.
        make: Function that returns the variables that the code uses, for a number of images.
        agree: Function that raises WrongResult unless the variables agree after both versions ran.
        rounds: Number of timed runs of each version.
    """

    title: str
    images: int
    inputs: str
    before: str
    after: str
    make: Callable[[int], Names]
    agree: Callable[[Names, Names], None]
    rounds: int = 15


def same(*names: str) -> Callable[[Names, Names], None]:
    """Return a function that raises WrongResult unless these variables agree.

    Floats must agree up to rounding. One label in a thousand may differ.
    """

    def agree(before: Names, after: Names) -> None:
        for name in names:
            a, b = (torch.cat([t.flatten().double() for t in tensors(x[name])]) for x in (before, after))
            integral = not tensors(after[name])[0].is_floating_point()
            error = (a != b).double().mean() if integral else (a - b).abs().max() / a.abs().max()
            if not error <= TOLERANCE:
                raise WrongResult(f"{name} differs by {float(error):.1e}")

    return agree


def tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def same_edits(before: Names, after: Names) -> None:
    """Raise WrongResult unless the edits agree.

    `before` holds a list of layers per part. `after` holds rows in which the part varies fastest.
    """
    rows = torch.stack([torch.cat(layers, 1) for layers in before["edited"]], 1).flatten(0, 1)
    same("edited")({"edited": rows}, after)


def as_good(before: Names, after: Names) -> None:
    """Raise WrongResult if the clusters of `after` are worse than the clusters of `before`.

    The mean cosine may be lower by TOLERANCE.
    """
    x = after["activations"]
    rows = normalize(x.movedim(1, -1).reshape(-1, x.shape[1]), dim=1)
    scores = []
    for names in (before, after):
        labels = torch.as_tensor(names["labels"]).flatten().long()
        sums = torch.zeros(20, x.shape[1]).index_add_(0, labels, rows)
        scores.append(float(assign(x, normalize(sums, dim=1)).similarity.mean()))
    if not scores[1] >= scores[0] * (1 - TOLERANCE):
        raise WrongResult(f"the mean cosine is {scores[1]:.5f}, before it was {scores[0]:.5f}")


def labelling(images: int) -> Names:
    activations, centroids = clustered(images, 512, 32, 32, 32, torch.float32)
    return {"activations": activations, "centroids": centroids}


def masked(images: int) -> Names:
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(24, (images, 32, 32), generator=rng)
    masks = torch.nn.functional.one_hot(labels, 24).movedim(-1, 1).float()
    return {"layer": torch.randn(images, 128, 128, 128, generator=rng), "masks": masks}


def styled(images: int) -> Names:
    rng = torch.Generator().manual_seed(0)
    rows = {"target": 1, "reference": images}
    layers = {name: [torch.randn(n, c, generator=rng) for c in WIDTHS] for name, n in rows.items()}
    return layers | {
        "q": [torch.rand(5, c, generator=rng) for c in WIDTHS],
        "styles": torch.empty(5 * images, sum(WIDTHS)),
    }


def coded(images: int) -> Names:
    latents, codebook = clustered(images, 256, 32, 32, 512, torch.float32)
    latents[:, :, 0, 1] = latents[:, :, 0, 0]  # replaces a zero vector, which has no nearest code
    return {"latents": latents, "codebook": codebook}


RECIPES = (
    Recipe(
        "Label every position by its most similar centroid",
        64,
        "images of 512 x 32 x 32, 32 centroids of unit norm",
        """
points = F.normalize(activations, dim=1)
similarity, labels = torch.einsum("nchw,kc->nkhw", points, centroids).max(1)
""",
        """
labels, similarity = stylefast.assign(activations, centroids)
""",
        labelling,
        same("labels", "similarity"),
    ),
    Recipe(
        "Cluster activations",
        16,
        "images of 512 x 16 x 16, 20 clusters, 10 restarts; the mean cosine is as good",
        """
rows = F.normalize(activations.permute(0, 2, 3, 1).reshape(-1, 512), dim=1)
labels = KMeans(20, n_init=10, random_state=0).fit(rows.numpy()).labels_
""",
        """
labels = stylefast.SphericalKMeans(20, n_init=10).fit(activations).labels_
""",
        lambda images: {"activations": mixture(0, images, 16, 20)},
        as_good,
        rounds=3,
    ),
    Recipe(
        "Measure M from masks",
        8,
        "images of 128 x 128 x 128, 24 masks of 32 x 32",
        """
a = F.instance_norm(layer)
u = F.interpolate(masks, size=layer.shape[2:], mode="bilinear")
M = torch.einsum("nchw,nkhw->kc", a**2, u) / a[:, 0].numel()
""",
        """
M = stylefast.contribution(layer, masks.argmax(1), masks.shape[1])
""",
        masked,
        same("M"),
    ),
    Recipe(
        "Blend lists of styles, one tensor per layer",
        256,
        "references of one target, 5 parts, 26 layers of StyleGAN2; every batch reuses `styles`",
        """
edited = [[(1 - m[p]) * s + m[p] * r for m, s, r in zip(q, target, reference)] for p in range(5)]
""",
        """
edits = torch.cartesian_prod(torch.arange(1), torch.arange(len(reference[0])), torch.arange(5))
edited = stylefast.blend(torch.cat(target, 1), torch.cat(reference, 1), torch.cat(q, 1), edits=edits, out=styles)
""",
        styled,
        same_edits,
    ),
    Recipe(
        "Quantise vectors by a cosine codebook, with the sums of its moving average",
        32,
        "images of 256 x 32 x 32, 512 codes of unit norm",
        """
z = F.normalize(latents.movedim(1, -1).reshape(-1, 256), dim=1)
codes = (z @ codebook.T).argmax(1)
one_hot = F.one_hot(codes, 512).type_as(z)
counts, sums = one_hot.sum(0), one_hot.T @ z
""",
        """
codes, sums, counts, _ = stylefast.lloyd_step(latents, codebook)
""",
        coded,
        same("codes", "sums", "counts"),
    ),
)


def markdown(records: Iterable[dict[str, Any]]) -> str:
    """Return the Markdown of all recipes, each with the ratio in its newest record."""
    ratios = {record["workload"]: record["to_peer"] for record in sorted(records, key=lambda record: record["date"])}
    return "\n\n".join(
        f"## {recipe.title}\n\nSpeed-up: {ratios[recipe.title]:.1f}x, for {recipe.images} {recipe.inputs}.\n\n"
        f"```python\n# before\n{recipe.before.strip()}\n# after\n{recipe.after.strip()}\n```"
        for recipe in RECIPES
    )
