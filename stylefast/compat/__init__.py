# SPDX-License-Identifier: Apache-2.0
"""The two classes that code written for "Editing in Style" calls, with their signatures, on this package's kernels.

Where results differ from the released code's, the docstrings say how.
"""

from .factor_catalog import FactorCatalog, Heatmaps
from .interpolator import StyleInterpolator

__all__ = ["FactorCatalog", "Heatmaps", "StyleInterpolator"]
