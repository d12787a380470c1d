# SPDX-License-Identifier: Apache-2.0
"""Code bases that `wrap` supports: names, modules that identify them, sites, and calling conventions."""

from . import lucidrains, nvlabs, rosinality
from .basicsr import BASICSR, GFPGAN
from .family import Family
from .genforce import (
    GENFORCE,
    GENFORCE_STYLEGAN1,
    GENFORCE_STYLEGAN2,
    HAMMER,
    HAMMER_STYLEGAN2,
    HAMMER_STYLEGAN3,
)
from .lernapparat import LERNAPPARAT
from .nvlabs import NVLABS_STYLEGAN2

__all__ = ["FAMILIES", "GENFORCE", "HAMMER", "LUCIDRAINS", "NVLABS_STYLEGAN2", "ROSINALITY", "Family"]

ROSINALITY = rosinality.NAME
LUCIDRAINS = lucidrains.NAME

FAMILIES = (  # a network belongs to the first that fits
    nvlabs.STYLEGAN_T,
    nvlabs.EG3D,
    nvlabs.EG3D_BACKBONE,
    nvlabs.STYLEGAN2,
    nvlabs.STYLEGAN3,
    rosinality.VTOONIFY,
    rosinality.DUAL_STYLEGAN,
    rosinality.SWAGAN,
    rosinality.RETRIEVE_IN_STYLE,
    rosinality.ROSINALITY,
    rosinality.VARIANT,
    GFPGAN,
    BASICSR,
    GENFORCE_STYLEGAN1,
    GENFORCE_STYLEGAN2,
    HAMMER_STYLEGAN2,
    HAMMER_STYLEGAN3,
    lucidrains.LUCIDRAINS,
    LERNAPPARAT,
    rosinality.MMAGIC,
)
