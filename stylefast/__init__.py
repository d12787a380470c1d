# SPDX-License-Identifier: Apache-2.0
"""Local editing of StyleGAN images ("Editing in Style", CVPR 2020) as fast as the hardware allows."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import backends
from .ops.assign import Assignment, assign
from .ops.assign_contribution import LabelsAndContribution, assign_contribution
from .ops.blend import blend
from .ops.contribution import contribution
from .ops.lloyd_step import LloydStep, lloyd_step

if TYPE_CHECKING:
    from . import figures, generators, locality, query
    from .catalog import Catalog
    from .editing import StyleEditor
    from .kmeans import SphericalKMeans

__version__ = "0.1.0"
__all__ = [
    "Assignment",
    "Catalog",
    "LabelsAndContribution",
    "LloydStep",
    "SphericalKMeans",
    "StyleEditor",
    "assign",
    "assign_contribution",
    "backends",
    "blend",
    "contribution",
    "figures",
    "generators",
    "lloyd_step",
    "locality",
    "query",
]

_LAZY = {"SphericalKMeans": "kmeans", "Catalog": "catalog", "StyleEditor": "editing"}


def __getattr__(name: str) -> Any:
    """Loads the editing half of the package when it is first used: the kernels alone import in no time."""
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    if name in ("figures", "generators", "locality", "query"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
