# SPDX-License-Identifier: Apache-2.0
"""The op table: every op is one row, registered for its backends."""

import torch

from .assign import ASSIGN
from .assign_contribution import ASSIGN_CONTRIBUTION
from .assign_soft_contribution import ASSIGN_SOFT_CONTRIBUTION
from .blend import BLEND
from .contribution import CONTRIBUTION
from .inverse_haar import INVERSE_HAAR
from .lloyd_step import LLOYD_STEP
from .nmf_step import NMF_STEP
from .op import register
from .pruned_step import PRUNED_STEP
from .separable_conv import SEPARABLE_CONV
from .soft_contribution import SOFT_CONTRIBUTION
from .winograd_conv import WINOGRAD_CONV

OPS = (LLOYD_STEP, ASSIGN, CONTRIBUTION, ASSIGN_CONTRIBUTION, BLEND)  # in the order in which the pipeline uses them
SOFT = (SOFT_CONTRIBUTION, ASSIGN_SOFT_CONTRIBUTION)  # what the public ops of these names do with memberships
LAYERS = (INVERSE_HAAR, SEPARABLE_CONV, WINOGRAD_CONV)  # layers of generators, which have no public name
STEPS = (PRUNED_STEP, NMF_STEP)  # steps of SphericalKMeans and NMF, which have no public name

_library = torch.library.Library("stylefast", "DEF")
_library.define("instruction_set() -> str")
_library.define("in_range(Tensor index, int[] counts) -> bool")
for _op in (*OPS, *SOFT, *STEPS, *LAYERS):
    register(_op, _library)
