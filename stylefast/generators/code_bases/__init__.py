# SPDX-License-Identifier: Apache-2.0
"""Code bases that `wrap` supports: names, modules that identify them, sites, and calling conventions."""

from . import basicsr, lucidrains, nvlabs, rosinality
from .family import Calls, Family
from .genforce import (
    GENFORCE,
    GENFORCE_STYLEGAN1,
    GENFORCE_STYLEGAN2,
    HAMMER,
    HAMMER_STYLEGAN2,
    HAMMER_STYLEGAN3,
)
from .lernapparat import LERNAPPARAT
from .nvlabs import NVLABS_STYLEGAN2, NVLABS_STYLEGAN3

__all__ = [
    "BASICSR",
    "FAMILIES",
    "GENFORCE",
    "HAMMER",
    "LUCIDRAINS",
    "NVLABS_STYLEGAN2",
    "NVLABS_STYLEGAN3",
    "ROSINALITY",
    "Calls",
    "Family",
]

BASICSR = basicsr.NAME
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
    basicsr.GFPGAN,
    basicsr.BASICSR,
    GENFORCE_STYLEGAN1,
    GENFORCE_STYLEGAN2,
    HAMMER_STYLEGAN2,
    HAMMER_STYLEGAN3,
    lucidrains.LUCIDRAINS,
    LERNAPPARAT,
    rosinality.MMAGIC,
)
