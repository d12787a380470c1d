# SPDX-License-Identifier: Apache-2.0
"""The two classes of the released code of "Editing in Style", with the same signatures, on this package's kernels.

The docstrings list the differences from the released code.
"""

from .factor_catalog import FactorCatalog, Heatmaps
from .interpolator import StyleInterpolator

__all__ = ["FactorCatalog", "Heatmaps", "StyleInterpolator"]
