# SPDX-License-Identifier: Apache-2.0
"""Local editing of StyleGAN images ("Editing in Style", Collins et al., CVPR 2020) on fused kernels."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .core import waiting as waiting  # isort: split

from . import backends
from .ops.assign import Assignment, assign
from .ops.assign_contribution import LabelsAndContribution, assign_contribution
from .ops.blend import blend
from .ops.contribution import contribution
from .ops.lloyd_step import LloydStep, lloyd_step

if TYPE_CHECKING:
    from . import (
        catalog,
        compat,
        distributed,
        editing,
        factorization,
        figures,
        generators,
        kmeans,
        locality,
        query,
        retrieval,
    )
    from . import (
        sklearn as sklearn,
    )
    from .catalog import Catalog
    from .editing import StyleEditor
    from .factorization import NMF
    from .kmeans import SphericalKMeans

__version__ = "0.1.0"
__all__ = [
    "Assignment",
    "Catalog",
    "LabelsAndContribution",
    "LloydStep",
    "NMF",
    "SphericalKMeans",
    "StyleEditor",
    "assign",
    "assign_contribution",
    "backends",
    "blend",
    "catalog",
    "compat",
    "contribution",
    "distributed",
    "editing",
    "factorization",
    "figures",
    "generators",
    "kmeans",
    "lloyd_step",
    "locality",
    "query",
    "retrieval",
]

_CLASSES = {"Catalog": "catalog", "NMF": "factorization", "SphericalKMeans": "kmeans", "StyleEditor": "editing"}
_MODULES = ("catalog", "compat", "distributed", "editing", "factorization", "figures", "generators", "kmeans",
            "locality", "query", "retrieval", "sklearn")  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import everything except the kernels on first use, so that `import stylefast` is fast."""
    if name in _CLASSES:
        return getattr(import_module(f".{_CLASSES[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "sklearn"})
